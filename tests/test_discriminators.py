"""Discriminators: published shapes, parity with independent forms, odd inputs, gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from codec.discriminators import (
    Discriminator,
    DiscriminatorOutput,
    Discriminators,
    MultiBandSTFTDiscriminator,
    MultiPeriodDiscriminator,
    MultiResolutionDiscriminator,
    MultiScaleDiscriminator,
    MultiScaleSTFTDiscriminator,
)
from codec.discriminators.base import normed
from codec.discriminators.scale import _GroupedConv1d
from codec.discriminators.stft import _FirstConv2d

NARROW = {
    "mpd": lambda channels=1: MultiPeriodDiscriminator(channels=channels, width=2),
    "mpd_dac": lambda channels=1: MultiPeriodDiscriminator(
        channels=channels, width=2, normalize=True, logit_feature=False, first_feature=1
    ),
    "msd": lambda channels=1: MultiScaleDiscriminator(channels=channels, width=4),
    "ms_stft": lambda channels=1: MultiScaleSTFTDiscriminator((128, 256), channels=channels, width=4),
    "mrd": lambda channels=1: MultiResolutionDiscriminator((128, 256), channels=channels, width=4),
    "mrd_hann": lambda channels=1: MultiResolutionDiscriminator(
        (128,), channels=channels, width=4, shape="hann"
    ),
    "multiband_stft": lambda channels=1: MultiBandSTFTDiscriminator((128, 256), channels=channels, width=4),
}


@pytest.fixture(params=NARROW)
def kind(request: pytest.FixtureRequest) -> str:
    torch.manual_seed(0)
    return str(request.param)


def audio(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape)


def tensors(output: DiscriminatorOutput) -> list[Tensor]:
    return output.logits + [feature for layers in output.features for feature in layers]


@pytest.mark.parametrize("length", [1, 2, 7, 64, 1000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_length_and_channels(kind: str, channels: int, length: int) -> None:
    output = NARROW[kind](channels)(audio(2, channels, length))
    assert len(output.logits) == len(output.features) > 0
    assert all(len(tensor) == 2 and tensor.numel() and tensor.isfinite().all() for tensor in tensors(output))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("length", [1, 3, 7, 20, 33, 50])
def test_short_audio_is_computed_not_found_in_memory(kind: str, length: int) -> None:
    disc, x = NARROW[kind]().eval(), audio(2, 1, length)
    with torch.backends.mkldnn.flags(enabled=False):  # another implementation of the same convolutions
        expected = tensors(disc(x))
    for _ in range(3):
        torch.full((1 << 16,), 1e30)  # what the next tensors may find
        for tensor, other in zip(tensors(disc(x)), expected, strict=True):
            torch.testing.assert_close(tensor, other, atol=1e-4, rtol=1e-4)


def test_every_scale_reaches_the_audio(kind: str) -> None:
    x = audio(2, 1, 900).requires_grad_()
    output = NARROW[kind]()(x)
    for logit, layers in zip(output.logits, output.features, strict=True):
        for tensor in (logit, *layers):
            (gradient,) = torch.autograd.grad(tensor.float().square().sum(), x, retain_graph=True)
            assert gradient.isfinite().all()
            assert (gradient.abs().amax(dim=-1) > 0).all()


def test_every_weight_learns(kind: str) -> None:
    disc = NARROW[kind]()
    sum(logit.square().sum() for logit in disc(audio(2, 1, 900)).logits).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in disc.parameters())


def test_silence_gives_finite_gradients(kind: str) -> None:
    x = torch.zeros(1, 1, 600, requires_grad=True)
    output = NARROW[kind]()(x)
    sum(tensor.square().sum() for tensor in tensors(output)).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_damaged_audio_leaves_no_trace(kind: str) -> None:
    disc = NARROW[kind]().eval()
    x = audio(1, 1, 600)
    before = disc(x).logits
    disc.train()
    disc(torch.full((1, 1, 600), torch.nan))
    # a spectral norm goes one power iteration further: only that may differ
    after = disc.eval()(x).logits
    assert all(torch.isfinite(logit).all() for logit in after)
    if kind != "msd":
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_clips_are_judged_one_by_one(kind: str) -> None:
    disc = NARROW[kind]().eval()
    x = audio(3, 1, 700)
    for whole, single in zip(tensors(disc(x)), tensors(disc(x[1:2])), strict=True):
        torch.testing.assert_close(whole[1:2], single, atol=1e-5, rtol=1e-4)


def test_pair_is_two_calls(kind: str) -> None:
    disc = NARROW[kind]().eval()
    real, fake = audio(2, 1, 700), audio(2, 1, 700)
    together = disc.pair(real, fake)
    for output, x in zip(together, (real, fake), strict=True):
        for a, b in zip(tensors(output), tensors(disc(x)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="differ in shape"):
        disc.pair(real, fake[..., :-1])


def test_runs_in_bfloat16(kind: str) -> None:
    disc = NARROW[kind]().eval()
    x = audio(2, 1, 700).requires_grad_()
    exact = disc(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = disc(x)
    for a, b in zip(exact.logits, rough.logits, strict=True):
        torch.testing.assert_close(b.float(), a, atol=0.05, rtol=0.05)
    sum(logit.float().sum() for logit in rough.logits).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_layout_is_channels_last_where_that_is_faster(kind: str) -> None:
    for layers in NARROW[kind]()(audio(2, 1, 900)).features:
        for feature in layers:
            assert feature.ndim == 3 or feature.is_contiguous(memory_format=torch.channels_last)


def test_arrangements_for_the_processor_are_the_same_convolutions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disc = NARROW[kind](2).eval()
    x = audio(2, 2, 900).requires_grad_()
    results = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(_GroupedConv1d, "_conv_forward", nn.Conv1d._conv_forward)
            monkeypatch.setattr(_FirstConv2d, "_conv_forward", nn.Conv2d._conv_forward)
        found = tensors(disc(x))
        total = torch.stack([tensor.square().mean() for tensor in found]).sum()
        results.append([*found, *torch.autograd.grad(total, [x, *disc.parameters()])])
    for here, there in zip(*results, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-6)


class TestComposite:
    def test_concatenates_in_order(self) -> None:
        torch.manual_seed(0)
        parts = {name: NARROW[name]().eval() for name in ("mrd", "mpd", "ms_stft")}
        x = audio(1, 1, 500)
        expected = [tensor for part in parts.values() for tensor in part(x).logits]
        found = Discriminators(parts)(x)
        assert len(found.logits) == len(found.features) == 2 + 5 + 2
        assert all(torch.equal(a, b) for a, b in zip(expected, found.logits, strict=True))

    def test_is_itself_a_part(self) -> None:
        inner = Discriminators({"mrd": NARROW["mrd"]()})
        assert len(Discriminators({"a": inner, "b": inner})(audio(1, 1, 500)).logits) == 4

    def test_refuses_nothing(self) -> None:
        with pytest.raises(ValueError, match="no discriminator"):
            Discriminators({})

    @pytest.mark.parametrize("wrong", [None, DiscriminatorOutput([torch.zeros(1)], [])])
    def test_checks_its_parts(self, wrong: DiscriminatorOutput | None) -> None:
        class Wrong(Discriminator):
            def forward(self, audio: Tensor) -> DiscriminatorOutput:
                return wrong  # type: ignore[return-value]

        with pytest.raises(TypeError, match="'odd'"):
            Discriminators({"odd": Wrong()})(audio(1, 1, 10))


class TestEnCodec:
    def test_parity_with_the_encodec_package(self) -> None:
        reference = pytest.importorskip("encodec.msstftd").MultiScaleSTFTDiscriminator(
            8, in_channels=2, n_ffts=[512, 1024], hop_lengths=[128, 256], win_lengths=[512, 1024]
        )
        torch.manual_seed(0)
        ours = MultiScaleSTFTDiscriminator((512, 1024), channels=2, width=8)
        for mine, theirs in zip(ours.stacks, reference.discriminators, strict=True):
            convs = [*mine.layers.convs, mine.post]
            for conv, source in zip(convs, [*theirs.convs, theirs.conv_post], strict=True):
                copy_weights(conv, source.conv)
        x = audio(2, 2, 4000).requires_grad_()
        logits, features = reference(x)
        found = ours(x)
        for a, b in zip(logits + [f for fs in features for f in fs], tensors(found), strict=True):
            torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-5)
        mine_g = torch.autograd.grad(sum(t.square().mean() for t in tensors(found)), x)[0]
        theirs_g = torch.autograd.grad(
            sum(t.square().mean() for t in logits + [f for fs in features for f in fs]), x
        )[0]
        torch.testing.assert_close(mine_g, theirs_g, atol=1e-6, rtol=1e-4)

    def test_default_is_the_published_shape(self) -> None:
        reference = pytest.importorskip("encodec.msstftd").MultiScaleSTFTDiscriminator(32)
        ours = MultiScaleSTFTDiscriminator()
        assert parameters(ours) == parameters(reference)
        assert len(ours.stacks) == 3


def copy_weights(conv: nn.Module, source: nn.Module) -> None:
    """Set what `conv` computes with, be it under a norm or not."""
    weight = source.weight.detach().clone()
    conv.weight = nn.Parameter(weight) if isinstance(conv.weight, nn.Parameter) else weight
    conv.bias = nn.Parameter(source.bias.detach().clone())


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class TestPublishedShapes:
    def test_mpd(self) -> None:
        # HiFi-GAN's stack: weights, biases, and one gain of the weight norm per output channel
        sizes = [(1, 32, 5), (32, 128, 5), (128, 512, 5), (512, 1024, 5), (1024, 1024, 5), (1024, 1, 3)]
        disc = MultiPeriodDiscriminator((7,))
        assert parameters(disc) == sum(i * o * k + 2 * o for i, o, k in sizes)
        assert [layers.shape[1] for layers in disc(torch.zeros(1, 1, 400)).features[0]] == [
            o for _, o, _ in sizes
        ]
        assert MultiPeriodDiscriminator(width=1).periods == (2, 3, 5, 7, 11)

    def test_msd(self) -> None:
        layers = [(1, 128, 15, 1), (128, 128, 41, 4), (128, 256, 41, 16), (256, 512, 41, 16)]
        layers += [(512, 1024, 41, 16), (1024, 1024, 41, 16), (1024, 1024, 5, 1), (1024, 1, 3, 1)]
        plain = sum(i // g * o * k + o for i, o, k, g in layers)
        gains = sum(o for _, o, _, _ in layers)
        disc = MultiScaleDiscriminator()
        # the spectral norm of the first scale has no gains
        assert parameters(disc) == 3 * plain + 2 * gains
        assert [n for n, _ in disc.stacks[0].named_buffers() if n.endswith("_u")]
        assert not list(disc.stacks[1].named_buffers())

    def test_mrd_is_that_of_vocos(self) -> None:
        torch.manual_seed(0)
        disc = MultiResolutionDiscriminator((256,), width=3)
        x = audio(2, 1, 1500)
        # the obvious form: (frequency, time) and magnitudes of torch.stft
        h = torch.stft(x[:, 0], 256, 64, window=torch.ones(256), center=True, return_complex=True).abs()[
            :, None
        ]
        stack = disc.stacks[0]
        strides = [(2, 2), (2, 1), (2, 2), (2, 1), (2, 2)]
        kernels = [(7, 5), (5, 3), (5, 3), (3, 3), (3, 3)]
        found = disc(x)
        for conv, stride, kernel, feature in zip(
            stack.layers.convs, strides, kernels, found.features[0][:-1], strict=True
        ):
            weight = conv.weight.transpose(2, 3)
            assert weight.shape[2:] == kernel
            h = F.leaky_relu(F.conv2d(h, weight, conv.bias, stride, (kernel[0] // 2, kernel[1] // 2)), 0.1)
            torch.testing.assert_close(feature.transpose(2, 3), h, atol=1e-4, rtol=1e-4)
        h = F.conv2d(h, stack.post.weight.transpose(2, 3), stack.post.bias, padding=1)
        torch.testing.assert_close(found.logits[0].transpose(2, 3), h, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("length", [1024, 1100])
    def test_multiband_spectrum_is_that_of_dac(self, length: int) -> None:
        disc = MultiBandSTFTDiscriminator((256,), width=2, normalize=False)
        x = audio(2, 1, length)
        # published: whole hops and 3/8 window of reflection, a centred transform, two frames dropped per end
        padded = F.pad(x, (96, 96 + -length % 64), mode="reflect")[:, 0]
        full = torch.stft(padded, 256, 64, window=torch.hann_window(256), return_complex=True)[..., 2:-2]
        found = disc.scales[0].stft(x)[:, 0].transpose(1, 2)
        torch.testing.assert_close(found, full, atol=1e-4, rtol=1e-4)

    def test_multiband_sees_every_band(self) -> None:
        disc = MultiBandSTFTDiscriminator((512,), width=2)
        output = disc(audio(1, 1, 2048))
        assert len(output.features[0]) == 5 * 5
        assert disc.scales[0].edges[0][0] == 0
        assert disc.scales[0].edges[-1][1] == 257
        widths = [layers.shape[-1] for layers in output.features[0][4::5]]
        assert output.logits[0].shape == (1, 1, 16, sum(widths))

    def test_empty_band_is_refused(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            MultiBandSTFTDiscriminator((32,), bands=[(0.0, 0.01), (0.01, 1.0)])

    def test_dac_judges_level_audio(self) -> None:
        torch.manual_seed(0)
        disc = MultiBandSTFTDiscriminator((128,), width=2)
        x = audio(1, 1, 800)
        for a, b in zip(disc(x).logits, disc(0.1 * x + 0.2).logits, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_period_folding_is_that_of_hifigan() -> None:
    torch.manual_seed(0)
    disc = MultiPeriodDiscriminator((3,), width=2)
    x = audio(2, 1, 1000)
    h = F.pad(x, (0, 2), mode="reflect").view(2, 1, 334, 3)
    stack = disc.stacks[0]
    found = disc(x)
    for conv, stride, feature in zip(
        stack.layers.convs, [3, 3, 3, 3, 1], found.features[0][:-1], strict=True
    ):
        h = F.leaky_relu(
            F.conv2d(h, conv.weight.transpose(2, 3), conv.bias, (stride, 1), padding=(2, 0)), 0.1
        )
        torch.testing.assert_close(feature.transpose(2, 3), h, atol=1e-5, rtol=1e-4)
    h = F.conv2d(h, stack.post.weight.transpose(2, 3), stack.post.bias, padding=(1, 0))
    torch.testing.assert_close(found.logits[0].transpose(2, 3), h, atol=1e-5, rtol=1e-4)


def test_weight_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 8, (3, 5))
    theirs = parametrizations.weight_norm(copy.deepcopy(plain))
    ours = normed(copy.deepcopy(plain))
    with torch.no_grad():
        for conv in (theirs, ours):
            conv.parametrizations.weight.original0.mul_(1.5)
    x = audio(2, 6, 9, 11)
    for conv in (theirs, ours):
        conv(x).square().sum().backward()
    ours_named, theirs_named = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert ours_named.keys() == theirs_named.keys()
    for name, parameter in ours_named.items():
        torch.testing.assert_close(parameter, theirs_named[name])
        torch.testing.assert_close(parameter.grad, theirs_named[name].grad, atol=1e-3, rtol=1e-4)


def test_normed_weights_keep_channels_last() -> None:
    conv = copy.deepcopy(normed(nn.Conv2d(6, 8, (3, 5))))
    conv.load_state_dict({name: value.contiguous() for name, value in conv.state_dict().items()})
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert conv.parametrizations.weight.original1.is_contiguous(memory_format=torch.channels_last)


def test_initial_weights_survive_the_norm() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(1, 32, (1, 5), (1, 3), padding=(0, 2))
    torch.manual_seed(0)
    disc = MultiPeriodDiscriminator((2,), width=32)
    torch.testing.assert_close(disc.stacks[0].layers.convs[0].weight, plain.weight)


def test_initialising_sets_the_scale_of_every_layer(kind: str) -> None:
    """Soft sound reaches the logits: without it they are nearly the biases."""
    network = Discriminators({"one": NARROW[kind]()})
    sound = 0.01 * torch.randn(4, 1, 4000)
    network.initialise(sound)
    convs = [part for part in network.modules() if isinstance(part, nn.Conv1d | nn.Conv2d)]
    seen: list[Tensor] = []
    hooks = [conv.register_forward_hook(lambda conv, x, y: seen.append(y.clone())) for conv in convs]
    network(sound)
    for hook in hooks:
        hook.remove()
    spectral = [conv for conv in convs if "SpectralNorm" in str(conv)]
    for conv, y in zip(convs, seen, strict=True):
        if conv in spectral:
            continue  # its norm sets the scale
        channels = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(channels.mean(1), torch.zeros(len(channels)), atol=1e-3, rtol=0)
        torch.testing.assert_close(channels.square().mean(1), torch.ones(len(channels)), atol=1e-2, rtol=0)
