"""Models of the `encodec` package give the same codes and samples here, at every bandwidth."""

import warnings

import pytest
import torch

from codec import StreamDecoder, StreamEncoder, checkpoint
from codec.checkpoint import load
from codec.convert import import_weights
from codec.errors import CheckpointError

EncodecModel = pytest.importorskip("encodec").EncodecModel


def randomly(model):
    """Codebooks that say something, for the package leaves them empty until training."""
    generator = torch.Generator().manual_seed(5)
    for layer in model.quantizer.vq.layers:
        layer._codebook.inited.fill_(1)
        layer._codebook.embed.normal_(generator=generator).mul_(0.3)
    return model.eval()


@pytest.fixture(scope="module")
def mono(tmp_path_factory):
    """The 24 kHz model with random weights, and its import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        model = randomly(EncodecModel.encodec_model_24khz(pretrained=False))
    folder = tmp_path_factory.mktemp("encodec")
    torch.save(model.state_dict(), folder / "24.th")
    import_weights("encodec", str(folder / "24.th"), folder / "24.safetensors")
    return model, checkpoint.load(folder / "24.safetensors")


@pytest.mark.parametrize("samples", [24000, 12345, 100])
@torch.no_grad()
def test_same_codes_and_samples_at_24_khz(mono, samples):
    theirs, ours = mono
    audio = 0.1 * torch.randn(2, 1, samples, generator=torch.Generator().manual_seed(samples))
    for bandwidth, codebooks in ((1.5, 2), (3.0, 4), (6.0, 8), (12.0, 16), (24.0, 32)):
        theirs.set_target_bandwidth(bandwidth)
        [(codes, _)] = theirs.encode(audio)
        assert codebooks in ours.quantizer.prefixes
        assert ours.bitrate(codebooks) == 1000 * bandwidth
        assert torch.equal(ours.encode(audio, num_codebooks=codebooks), codes)
        torch.testing.assert_close(ours.decode(codes), theirs.decode([(codes, None)]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_mirrored_model_streams_exactly(mono):
    _, codec = mono
    for samples in (9000, 700):
        audio = 0.1 * torch.randn(1, 1, samples)
        codes = codec.encode(audio)
        encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
        parts, start = [], 0
        for size in (5, 0, 700, 315, 320, 3000):
            parts.append(encoder.push(audio[..., start : start + size]))
            start = min(samples, start + size)
        parts += [encoder.push(audio[..., start:]), encoder.flush()]
        assert torch.equal(torch.cat(parts, -1), codes)
        sound = [decoder.push(part) for part in parts] + [decoder.flush()]
        assert torch.equal(torch.cat(sound, -1), codec.decode(codes))


def test_what_is_no_model_of_the_package_is_refused(tmp_path, mono):
    theirs, _ = mono
    out = tmp_path / "out.safetensors"
    state = theirs.state_dict()
    del state["decoder.model.0.conv.conv.bias"]
    torch.save(state, tmp_path / "bad.th")
    with pytest.raises(CheckpointError, match=r"has no decoder\.model\.0\.conv\.conv\.bias"):
        import_weights("encodec", str(tmp_path / "bad.th"), out)
    torch.save({"something": [1, 2]}, tmp_path / "other.th")
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        import_weights("encodec", str(tmp_path / "other.th"), out)
    assert not out.exists()


@pytest.fixture(scope="module")
def stereo(tmp_path_factory):
    """The 48 kHz model with random weights, and its import."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        model = randomly(EncodecModel.encodec_model_48khz(pretrained=False))
    model.segment = 1.0  # its own loader forgets it
    folder = tmp_path_factory.mktemp("encodec")
    torch.save(model.state_dict(), folder / "48.th")
    import_weights("encodec", str(folder / "48.th"), folder / "48.safetensors")
    return model, load(folder / "48.safetensors")


def sound(samples):
    """Stereo noise that grows, so that every segment has another level."""
    noise = torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(samples))
    return noise * torch.linspace(0.01, 0.3, samples)


@pytest.mark.parametrize(("samples", "least"), [(100_000, 24.0), (7_001, 3.0)])
@torch.no_grad()
def test_same_codes_and_samples_at_48_khz(stereo, samples, least):
    theirs, ours = stereo
    audio = sound(samples)
    for bandwidth, codebooks in ((3.0, 2), (6.0, 4), (12.0, 8), (24.0, 16)):
        if bandwidth < least:
            continue
        theirs.set_target_bandwidth(bandwidth)
        frames = theirs.encode(audio)
        assert ours.bitrate(codebooks) == 1000 * bandwidth
        codes = ours.encode(audio, num_codebooks=codebooks)
        assert codes.max() < 1024
        mine = ours.segments(codes)[0]
        assert len(mine) == len(frames)
        for (code, level), (their_code, their_level) in zip(mine, frames, strict=True):
            assert torch.equal(code, their_code)
            torch.testing.assert_close(level, their_level[:, 0], rtol=1e-5, atol=0)
        torch.testing.assert_close(
            ours.decode(codes, num_samples=samples), theirs.decode(frames)[..., :samples], rtol=0, atol=1e-5
        )
        assert torch.equal(ours.encode(audio, num_codebooks=16)[:, :codebooks], codes)
