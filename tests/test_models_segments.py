"""Codecs of overlapping segments: whole, in pieces, in part and damaged."""

import pytest
import soundfile
import torch

from codec import checkpoint
from codec.build import build
from codec.checkpoint import load
from codec.errors import CodecError, ConfigError
from codec.files import decode_file, encode_file

SEANET = {"dim": 16, "width": 2, "norm": "time", "pad": "mirror", "causal": False}
CONFIG = {
    "model": {
        "sample_rate": 48000,
        "channels": 2,
        "encoder": {"name": "seanet_encoder", **SEANET},
        "decoder": {"name": "seanet_decoder", **SEANET},
        "segments": {"length": 48000, "stride": 47520},
    },
    "quantizer": {"name": "rvq", "num_codebooks": 4, "codebook_size": 1024, "prefixes": [2, 4]},
}


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """EnCodec's shape at 48 kHz, very narrow, with random weights."""
    torch.manual_seed(4)
    codec = build(CONFIG)
    for codebook in codec.quantizer.codebooks():
        codebook.load_table(torch.randn(1024, 16))
    path = tmp_path_factory.mktemp("segments") / "tiny.safetensors"
    checkpoint.save(codec.eval(), path, CONFIG)
    return load(path)


def sound(samples):
    """Stereo noise that grows, so that every segment has another level."""
    noise = torch.randn(1, 2, samples, generator=torch.Generator().manual_seed(samples))
    return noise * torch.linspace(0.01, 0.3, samples)


@pytest.mark.parametrize("samples", [95_100, 95_300, 95_500, 95_040, 95_041])
@torch.no_grad()
def test_segments_in_pieces_are_the_whole(codec, samples):
    """Where the last segment is hardly longer than the overlap, the frames alone must tell where it begins."""
    audio = sound(samples)
    codes = codec.encode(audio, num_codebooks=2)
    whole = codec.decode(codes)
    assert codes.shape[-1] == codec.num_frames(samples)
    assert whole.shape[-1] >= samples
    assert len(codec.segments(codes)[0]) == -(-samples // 47_520)
    parts = codec.encoder_stream(num_codebooks=2).run(audio.split(30_001, -1))
    assert torch.equal(torch.cat(list(parts), -1), codes)
    parts = codec.decoder_stream().run(codes.split(77, -1))
    assert torch.equal(torch.cat(list(parts), -1), whole)


@torch.no_grad()
def test_levels_are_legal_in_every_code_and_never_a_shout(codec):
    for level in (0.0, 1e-7, 1e-4, 0.02, 1.0, 5.0):
        audio = torch.full((1, 2, 4000), level)
        ((_, found), *_), _ = codec.segments(codec.encode(audio, num_codebooks=2))
        expected = 0.0 if level < 2e-6 else min(level + 1e-8, 2.0)
        torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-5, atol=0)
    noise = torch.randint(0, 1024, (1, 2, 500), generator=torch.Generator().manual_seed(1))
    assert all(0 <= level <= 2 for _, level in codec.segments(noise)[0])
    assert codec.decode(noise).isfinite().all()


@torch.no_grad()
def test_lost_segments_are_silent_and_cost_no_time(codec):
    codes = codec.encode(sound(150_000), num_codebooks=2)
    whole = codec.decode(codes)

    def decode(*pieces):
        audio = torch.cat(list(codec.decoder_stream().run(pieces)), -1)
        assert audio.shape == whole.shape
        return audio

    # the end of the first segment and the level of the second
    part = decode(codes[..., :100], 100, codes[..., 200:])
    assert codec.samples_of(100, 200) == (99 * 320, 47_520 + 48_000)
    assert part[..., 99 * 320 + 2880 : 2 * 47_520].abs().max() == 0
    assert part[..., : 99 * 320].abs().max() > 0.01
    assert torch.equal(part[..., 47_520 + 48_000 + 960 :], whole[..., 47_520 + 48_000 + 960 :])
    # frames inside one
    assert codec.samples_of(160, 170) == (47_520 + 8 * 320, 47_520 + 18 * 320)
    assert decode(codes[..., :160], 10, codes[..., 170:])[..., 47_520 + 20 * 320 :].abs().max() > 0.01
    assert decode(100, codes[..., 100:])[..., :47_520].abs().max() == 0
    assert decode(codes[..., :300], codes.shape[-1] - 300)[..., 3 * 47_520 :].abs().max() == 0
    assert decode(codes.shape[-1]).abs().max() == 0


@torch.no_grad()
def test_a_part_of_a_file_of_segments(codec, tmp_path):
    soundfile.write(tmp_path / "in.wav", sound(200_000)[0].t().numpy(), 48_000, subtype="FLOAT")
    done = encode_file(tmp_path / "in.wav", tmp_path / "out.tok", codec, num_codebooks=2)
    assert done.num_frames == codec.num_frames(200_000)
    decode_file(tmp_path / "out.tok", tmp_path / "whole.wav", codec)
    whole, _ = soundfile.read(tmp_path / "whole.wav")
    assert whole.shape == (200_000, 2)
    for start, count in ((0, 48_000), (47_000, 3000), (100_000, 90_000), (190_000, 10_000)):
        times = {"start": start / 48_000, "duration": count / 48_000}
        decode_file(tmp_path / "out.tok", tmp_path / "part.wav", codec, **times)
        assert (soundfile.read(tmp_path / "part.wav")[0] == whole[start : start + count]).all()


def test_segments_stream_when_they_are_whole(codec):
    stream = codec.encoder_stream()
    assert stream.latency == 48_000 - 320
    assert stream.push(sound(48_000)).shape == (1, 4, 0)
    assert stream.push(sound(320)).shape == (1, 4, 151)
    with pytest.raises(CodecError, match="one by one"):
        stream.reset(torch.tensor([True]))


@pytest.mark.parametrize(("length", "stride"), [(48000, 40000), (48000, 48001), (48000, 0)])
def test_segments_that_cannot_be_told_apart_are_refused(length, stride):
    model = CONFIG["model"] | {"segments": {"length": length, "stride": stride}}
    with pytest.raises(ConfigError, match=r"must overlap|stride"):
        build(CONFIG | {"model": model})
