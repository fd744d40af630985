"""HiFi-Codec checkpoints in the published key layout become codecs with the same codes and samples."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from codec import checkpoint
from codec.convert import import_weights
from codec.errors import CheckpointError, CodecError

SHAPES = {
    "24k-240d": ((8, 5, 3, 2), (16, 11, 7, 4), 24000),
    "16k-320d": ((8, 5, 4, 2), (16, 11, 8, 4), 16000),
}
BRANCHES = (3, 7, 11)
DILATIONS = (1, 3, 5)


class Published:
    """The release's arithmetic, written down from its layer list, on tensors under the release's names."""

    def __init__(self, rates, kernels, width=2, dim=32, codes=20):
        self.rates, self.kernels, self.dim = rates, kernels, dim
        generator = torch.Generator().manual_seed(1)
        self.encoder, self.generator, self.quantizer = {}, {}, {}

        def conv(state, name, *shape, normed=True, out=0):
            weight = torch.randn(*shape, generator=generator) / math.sqrt(shape[1] * shape[2])
            if normed:
                state[f"{name}.weight_v"] = weight
                state[f"{name}.weight_g"] = 0.5 + torch.rand(shape[0], 1, 1, generator=generator)
            else:
                state[f"{name}.weight"] = weight
            state[f"{name}.bias"] = 0.1 * torch.randn(out or shape[0], generator=generator)

        def blocks(state, index, channels, kernels, norm):
            for j, kernel in enumerate(kernels):
                number = index * 3 + j
                for d in range(3):
                    conv(state, f"resblocks.{number}.convs1.{d}", channels, channels, kernel)
                    conv(state, f"resblocks.{number}.convs2.{d}", channels, channels, kernel)
                if norm:
                    state[f"normalize.{number}.weight"] = torch.rand(channels, generator=generator)
                    state[f"normalize.{number}.bias"] = torch.randn(channels, generator=generator)

        conv(self.encoder, "conv_pre", width, 1, 7)
        for i, kernel in enumerate(reversed(kernels)):
            conv(self.encoder, f"ups.{i}", width * 2 ** (i + 1), width * 2**i, kernel)
            blocks(self.encoder, i, width * 2 ** (i + 1), reversed(BRANCHES), norm=True)
        conv(self.encoder, "conv_post", dim, width * 16, 3, normed=False)
        wide = width * 16
        conv(self.generator, "conv_pre", wide, dim, 7)
        for i, kernel in enumerate(kernels):
            conv(
                self.generator,
                f"ups.{i}",
                wide // 2**i,
                wide // 2 ** (i + 1),
                kernel,
                out=wide // 2 ** (i + 1),
            )
            blocks(self.generator, i, wide // 2 ** (i + 1), BRANCHES, norm=False)
        conv(self.generator, "conv_post", 1, wide // 16, 7)
        for name in ("quantizer_modules", "quantizer_modules2"):
            for group in range(2):
                self.quantizer[f"{name}.{group}.embedding.weight"] = torch.randn(
                    codes, dim // 2, generator=generator
                )

    def checkpoint(self):
        return {"generator": self.generator, "encoder": self.encoder, "quantizer": self.quantizer}

    @staticmethod
    def _weight(state, name):
        if f"{name}.weight" in state:
            return state[f"{name}.weight"], state[f"{name}.bias"]
        v = state[f"{name}.weight_v"]
        return state[f"{name}.weight_g"] * v / v.flatten(1).norm(dim=1).view(-1, 1, 1), state[f"{name}.bias"]

    def _branches(self, state, index, x, kernels, norm):
        total = 0
        for j, kernel in enumerate(kernels):
            y = x
            for d, dilation in enumerate(DILATIONS):
                name = f"resblocks.{index * 3 + j}"
                t = F.leaky_relu(y, 0.1)
                weight = self._weight(state, f"{name}.convs1.{d}")
                t = F.conv1d(t, *weight, dilation=dilation, padding=dilation * (kernel - 1) // 2)
                t = F.leaky_relu(t, 0.1)
                y = y + F.conv1d(t, *self._weight(state, f"{name}.convs2.{d}"), padding=(kernel - 1) // 2)
            total = total + y
            if norm:
                name = f"normalize.{index * 3 + j}"
                channels = x.shape[1]
                total = F.group_norm(
                    total,
                    max(1, channels // 16),
                    state[f"{name}.weight"],
                    state[f"{name}.bias"],
                    eps=1e-6,
                )
        return total / 3

    def encode(self, audio):
        state = self.encoder
        x = F.conv1d(audio, *self._weight(state, "conv_pre"), padding=3)
        for i, (rate, kernel) in enumerate(zip(reversed(self.rates), reversed(self.kernels), strict=True)):
            x = F.leaky_relu(x, 0.1)
            x = F.conv1d(x, *self._weight(state, f"ups.{i}"), stride=rate, padding=(kernel - rate) // 2)
            x = self._branches(state, i, x, BRANCHES[::-1], norm=True)
        x = F.conv1d(F.leaky_relu(x), *self._weight(state, "conv_post"), padding=1)
        residual, codes = x.transpose(1, 2), []
        for name in ("quantizer_modules", "quantizer_modules2"):
            chosen = []
            for group, part in enumerate(residual.chunk(2, dim=-1)):
                table = self.quantizer[f"{name}.{group}.embedding.weight"]
                codes.append(torch.cdist(part, table).argmin(-1))
                chosen.append(table[codes[-1]])
            residual = residual - torch.cat(chosen, -1)
        return torch.stack(codes, 1)

    def decode(self, codes):
        state = self.generator
        tables = list(self.quantizer.values())
        parts = [table[codes[:, k]] for k, table in enumerate(tables)]
        x = torch.cat([parts[0] + parts[2], parts[1] + parts[3]], -1).transpose(1, 2)
        x = F.conv1d(x, *self._weight(state, "conv_pre"), padding=3)
        for i, (rate, kernel) in enumerate(zip(self.rates, self.kernels, strict=True)):
            x = F.leaky_relu(x, 0.1)
            x = F.conv_transpose1d(
                x, *self._weight(state, f"ups.{i}"), stride=rate, padding=(kernel - rate) // 2
            )
            x = self._branches(state, i, x, BRANCHES, norm=False)
        return torch.tanh(F.conv1d(F.leaky_relu(x, 0.1), *self._weight(state, "conv_post"), padding=3))


@pytest.mark.parametrize("name", SHAPES)
def test_same_codes_and_samples_as_the_release(name, tmp_path):
    rates, kernels, sample_rate = SHAPES[name]
    published = Published(rates, kernels)
    torch.save(published.checkpoint(), tmp_path / f"HiFi-Codec-{name}")
    metadata = import_weights(
        "academicodec", str(tmp_path / f"HiFi-Codec-{name}"), tmp_path / "out.safetensors"
    )
    codec = checkpoint.load(tmp_path / "out.safetensors")
    assert (codec.sample_rate, codec.hop, codec.causal) == (sample_rate, math.prod(rates), False)
    assert "AcademiCodec" in metadata["origin"]
    audio = 0.3 * torch.randn(2, 1, 50 * codec.hop)
    with torch.no_grad():
        codes = codec.encode(audio)
        assert torch.equal(codes, published.encode(audio))
        torch.testing.assert_close(codec.decode(codes), published.decode(codes), rtol=0, atol=1e-5)


def test_a_model_wrapped_for_several_devices_is_read(tmp_path):
    published = Published(*SHAPES["24k-240d"][:2])
    states = {
        part: {f"module.{key}": value for key, value in state.items()}
        for part, state in published.checkpoint().items()
    }
    torch.save(states, tmp_path / "g_00000100")
    import_weights("academicodec", str(tmp_path / "g_00000100"), tmp_path / "out.safetensors")
    assert checkpoint.load(tmp_path / "out.safetensors").hop == 240


def test_what_does_not_fit_is_named(tmp_path):
    path, out = str(tmp_path / "checkpoint"), tmp_path / "out.safetensors"
    published = Published(*SHAPES["16k-320d"][:2])
    good = published.checkpoint()

    def attempt(states, message, **more):
        torch.save(states, path)
        with pytest.raises(CodecError, match=message):
            import_weights("academicodec", path, out, **more)
        assert not out.exists()

    attempt(good, "does not tell its sample rate")
    attempt({"model": good["encoder"]}, "is no HiFi-Codec checkpoint")
    bad = good | {"encoder": {k: v for k, v in good["encoder"].items() if k != "conv_pre.bias"}}
    attempt(bad, "the encoder of .* has no conv_pre.bias", sample_rate=16000)
    bad = good | {"generator": good["generator"] | {"extra.weight": torch.zeros(1)}}
    attempt(bad, "1 tensors have no place, such as extra.weight", sample_rate=16000)
    bad = good | {"encoder": good["encoder"] | {"normalize.0.weight": torch.zeros(3)}}
    attempt(bad, "norms.0.weight is missing, unknown or of another shape", sample_rate=16000)
    with pytest.raises(CodecError, match="there is no converter from 'elsewhere'"):
        import_weights("elsewhere", path, out)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        import_weights("academicodec", str(tmp_path / "none"), out)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "pickle"
    torch.save({"encoder": nn.Linear(1, 1)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of tensors"):
        import_weights("academicodec", str(path), tmp_path / "out.safetensors")
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match="no checkpoint of tensors"):
        import_weights("academicodec", str(path), tmp_path / "out.safetensors")
