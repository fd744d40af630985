"""Files in, files out: the same codes as the whole signal at once, the same length and rate as the source."""

from __future__ import annotations

import io
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import soundfile
import soxr
import torch
from conftest import SPEECH, make_model

from codec import audio, files
from codec.bitstream import TokWriter, read_tok, repair
from codec.build import build
from codec.errors import AudioError, CheckpointError, ConfigError, TokError


@pytest.fixture(scope="module")
def codec(tiny_model):
    return files.load(tiny_model)


@contextmanager
def short_chunks(frames):
    """Token files with short chunks, so that ten seconds have some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "TokWriter", partial(TokWriter, frames_per_chunk=frames))
        yield


def noise(path, seconds=1.0, rate=16000, channels=1, seed=0, subtype=None):
    samples = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def test_a_file_gives_the_codes_and_the_audio_of_the_whole_signal(codec, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_SECONDS", 3)  # so that the ten seconds make several blocks
    done = files.encode_file(SPEECH, tmp_path / "a.tok", codec)
    samples, rate = audio.read(SPEECH)
    header, codes = read_tok(tmp_path / "a.tok")
    assert (
        (header.num_samples, header.sample_rate, header.channels)
        == (samples.shape[1], rate, 1)
        == (done.header.num_samples, 16000, 1)
    )
    assert done.num_bytes == (tmp_path / "a.tok").stat().st_size
    assert done.kbps == pytest.approx(8 * done.num_bytes / done.seconds / 1000)
    with torch.inference_mode():
        whole = codec.encode(torch.from_numpy(samples)[None])
        restored = codec.decode(whole, num_samples=samples.shape[1])
    assert np.array_equal(codes, whole[0].numpy())
    assert len(np.unique(codes)) > 8
    assert files.decode_file(tmp_path / "a.tok", tmp_path / "a.wav", codec).num_samples == samples.shape[1]
    written = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    np.testing.assert_allclose(written, restored[0, 0].clamp(-1, 1).numpy(), atol=2e-5)


def test_no_more_than_a_block_is_in_the_model_at_a_time(codec, tmp_path, monkeypatch):
    longest: dict[str, int] = {}

    def watch(name, module):
        def note(_, inputs):
            longest[name] = max(longest.get(name, 0), inputs[0].shape[-1])

        return module.register_forward_pre_hook(note)

    hooks = [watch("encoder", codec.encoder), watch("decoder", codec.decoder)]
    monkeypatch.setattr(files, "BLOCK_SECONDS", 5)
    source = noise(tmp_path / "in.wav", 40, 8000, 2)
    files.encode_file(source, tmp_path / "a.tok", codec)
    files.decode_file(tmp_path / "a.tok", tmp_path / "a.wav", codec)
    for hook in hooks:
        hook.remove()
    assert soundfile.info(tmp_path / "a.wav").frames == 40 * 8000
    assert longest["encoder"] <= 1.1 * 5 * 16000  # the resampler gives out what it has kept
    assert longest["decoder"] <= 12 * 50  # the frames of a chunk of a token file


@pytest.mark.parametrize("channels", ["mix", "split"])
@pytest.mark.parametrize(
    ("rate", "count"), [(16000, 2), (44100, 1), (48000, 2), (8000, 1), (192000, 3), (22050, 8)]
)
def test_rate_and_length_come_back(codec, tmp_path, rate, count, channels):
    source = noise(tmp_path / "in.wav", 0.7321, rate, count)
    done = files.encode_file(source, tmp_path / "a.tok", codec, channels=channels)
    assert (done.header.sample_rate, done.header.channels) == (rate, count)
    files.decode_file(tmp_path / "a.tok", tmp_path / "out.wav", codec)
    info, out = soundfile.info(source), soundfile.info(tmp_path / "out.wav")
    assert (out.samplerate, out.frames) == (info.samplerate, info.frames)
    assert out.channels == (count if channels == "split" else 1)


def test_split_channels_are_coded_as_if_alone(codec, tmp_path):
    samples = np.concatenate([audio.read(noise(tmp_path / f"{s}.wav", seed=s))[0] for s in range(3)])
    audio.write(tmp_path / "all.wav", samples, 16000)
    files.encode_file(tmp_path / "all.wav", tmp_path / "all.tok", codec, channels="split", num_codebooks=2)
    header, rows = read_tok(tmp_path / "all.tok")
    assert header.channel_policy == "split"
    for channel in range(3):
        files.encode_file(tmp_path / f"{channel}.wav", tmp_path / "one.tok", codec, num_codebooks=2)
        assert np.array_equal(rows.reshape(2, 3, -1)[:, channel], read_tok(tmp_path / "one.tok")[1])


@pytest.mark.parametrize("samples", [1, 2, 319, 320, 321])
def test_very_short_files_keep_their_length(codec, tmp_path, samples):
    noise(tmp_path / "in.wav", samples / 16000)
    assert files.encode_file(tmp_path / "in.wav", tmp_path / "a.tok", codec).num_frames == -(-samples // 320)
    files.decode_file(tmp_path / "a.tok", tmp_path / "out.wav", codec)
    assert soundfile.info(tmp_path / "out.wav").frames == samples


def test_a_lower_rate_is_a_prefix_of_the_stream(codec, tmp_path):
    files.encode_file(SPEECH, tmp_path / "4.tok", codec)
    files.encode_file(SPEECH, tmp_path / "1.tok", codec, num_codebooks=1)
    assert np.array_equal(read_tok(tmp_path / "4.tok")[1][:1], read_tok(tmp_path / "1.tok")[1])
    assert files.decode_file(tmp_path / "1.tok", tmp_path / "1.wav", codec).header.codebook_sizes == (64,)


def test_binary_files_do_as_well_as_paths(codec, tmp_path):
    tokens, sound = io.BytesIO(), io.BytesIO()
    with SPEECH.open("rb") as file:
        files.encode_file(file, tokens, codec)
    tokens.seek(0)
    files.decode_file(tokens, sound, codec, format="flac")
    sound.seek(0)
    assert soundfile.info(sound).frames == soundfile.info(SPEECH).frames


def test_an_mp3_keeps_its_decoded_length(codec, tmp_path):
    noise(tmp_path / "in.mp3", 2.1, 44100)
    done = files.encode_file(tmp_path / "in.mp3", tmp_path / "a.tok", codec)
    assert done.header.num_samples == audio.read(tmp_path / "in.mp3")[0].shape[1]
    header = files.decode_file(tmp_path / "a.tok", tmp_path / "out.wav", codec).header
    assert header.num_samples == done.header.num_samples == soundfile.info(tmp_path / "out.wav").frames


@pytest.fixture(scope="module")
def looking_ahead(tiny_config, tmp_path_factory):
    """A codec that is not causal and normalises over the whole signal."""
    parts = {"dim": 32, "rates": [5, 4], "kernels": [9, 8], "branch_kernels": [3], "dilations": [1, 3]}
    config = tiny_config | {
        "model": {
            "sample_rate": 16000,
            "channels": 1,
            "encoder": {"name": "hificodec_encoder", "width": 8} | parts,
            "decoder": {"name": "hificodec_decoder", "width": 32} | parts,
        }
    }
    return files.load(make_model(tmp_path_factory.mktemp("model") / "m.safetensors", config))


@pytest.mark.parametrize("at_once", [0, 30])
def test_a_codec_that_looks_ahead_gives_the_codes_of_the_whole_file(
    looking_ahead, tmp_path, monkeypatch, at_once
):
    codec = looking_ahead
    assert not codec.causal
    monkeypatch.setattr(files, "BLOCK_SECONDS", 1)
    monkeypatch.setattr(files, "AT_ONCE_SECONDS", at_once)
    samples = audio.read(SPEECH)[0][:, : 2 * 16000 + 7]
    audio.write(tmp_path / "in.wav", samples, 16000)
    files.encode_file(tmp_path / "in.wav", tmp_path / "a.tok", codec)
    with torch.inference_mode():
        whole = codec.encode(torch.from_numpy(samples)[None])
        restored = codec.decode(whole, num_samples=samples.shape[1])[0, 0]
    assert np.array_equal(read_tok(tmp_path / "a.tok")[1], whole[0].numpy())
    files.decode_file(tmp_path / "a.tok", tmp_path / "out.wav", codec)
    written = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    np.testing.assert_allclose(written, restored.clamp(-1, 1).numpy(), atol=2e-5)


def test_refinement_reaches_the_search(codec, tmp_path):
    for name, settings in [("a", {}), ("b", {"beam": 4, "refine": 1})]:
        files.encode_file(SPEECH, tmp_path / f"{name}.tok", codec, **settings)
    greedy, searched = (read_tok(tmp_path / f"{name}.tok")[1] for name in "ab")
    samples = torch.from_numpy(audio.read(SPEECH)[0])[None]
    with torch.inference_mode():
        assert np.array_equal(codec.encode(samples, beam=4, refine=1)[0].numpy(), searched)
    assert not np.array_equal(greedy, searched)


def test_a_failure_leaves_no_file_and_spares_the_old_one(codec, tmp_path):
    bad = tmp_path / "bad.wav"
    samples = np.zeros(30 * 16000, np.float32)
    samples[25 * 16000] = np.nan
    soundfile.write(bad, samples, 16000, subtype="FLOAT")
    (tmp_path / "old.tok").write_bytes(b"precious")
    with pytest.raises(AudioError, match="sample 400000 is not a finite number"):
        files.encode_file(bad, tmp_path / "old.tok", codec)
    assert (tmp_path / "old.tok").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.wav", "old.tok"]


def test_a_bit_rate_becomes_a_number_of_books(codec):
    assert [codec.bitrate(n) for n in (1, 4)] == [300, 1200]
    assert [codec.codebooks_for(kbps) for kbps in (0.3, 0.59, 0.6, 100)] == [1, 1, 2, 4]
    with pytest.raises(ConfigError, match=r"the lowest bit rate of this model is 0\.3 kbps"):
        codec.codebooks_for(0.2)


def test_what_does_not_belong_together_is_refused(codec, tiny_config, tmp_path):
    with pytest.raises(ConfigError, match="no 5 codebooks; it has 1, 2, 3, 4"):
        files.encode_file(SPEECH, tmp_path / "a.tok", codec, num_codebooks=5)
    with pytest.raises(AudioError, match="2 channels and the model 1"):
        files.encode_file(noise(tmp_path / "2.wav", channels=2), tmp_path / "a.tok", codec, channels="refuse")
    with pytest.raises(CheckpointError, match="no fingerprint"):
        files.encode_file(SPEECH, tmp_path / "a.tok", build(tiny_config).eval())
    other = files.load(make_model(tmp_path / "other.safetensors", tiny_config, seed=1))
    files.encode_file(SPEECH, tmp_path / "a.tok", codec)
    with pytest.raises(TokError, match=f"of the model {codec.metadata['fingerprint']}"):
        files.decode_file(tmp_path / "a.tok", tmp_path / "a.wav", other)
    with pytest.raises(CheckpointError, match="there is no model 'nobody'"):
        files.load("nobody")


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"hop": 319}, "does not make"),
        ({"codebook_sizes": (32,) * 4}, "does not make"),
        ({"num_samples": 2**60}, "the header tells of"),
    ],
)
def test_a_header_that_lies_is_refused(codec, tmp_path, lie, words):
    files.encode_file(noise(tmp_path / "in.wav"), tmp_path / "a.tok", codec)
    header, codes = read_tok(tmp_path / "a.tok")
    with open(tmp_path / "b.tok", "wb") as file, TokWriter(file, replace(header, **lie)) as writer:
        writer.num_samples = 15000
        writer.write(np.minimum(codes, 31))
    with pytest.raises(TokError, match=words):
        files.decode_file(tmp_path / "b.tok", tmp_path / "b.wav", codec)
    assert not (tmp_path / "b.wav").exists()


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize(("start", "duration"), [(0, 1.5), (6.4, 1.25), (9.3, None), (3.21, 99)])
def test_a_part_is_what_the_whole_has_there(codec, tmp_path, rate, start, duration):
    samples = audio.read(SPEECH)[0]
    audio.write(tmp_path / "in.wav", soxr.resample(samples[0], 16000, rate)[None], rate)
    with short_chunks(50):
        files.encode_file(tmp_path / "in.wav", tmp_path / "a.tok", codec)
    files.decode_file(tmp_path / "a.tok", tmp_path / "all.wav", codec)
    done = files.decode_file(tmp_path / "a.tok", tmp_path / "b.wav", codec, start=start, duration=duration)
    whole, part = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("all", "b"))
    first = round(start * rate)
    expected = whole[first : None if duration is None else first + round(duration * rate)]
    assert done.num_samples == len(part) == len(expected)
    np.testing.assert_allclose(part, expected, atol=1e-4)


def test_a_part_after_the_end_is_refused(codec, tmp_path):
    files.encode_file(SPEECH, tmp_path / "a.tok", codec)
    with pytest.raises(TokError, match=r"ends after 9\.913 s, before 10\.000 s"):
        files.decode_file(tmp_path / "a.tok", tmp_path / "b.wav", codec, start=10)


def test_damage_is_faded_over_and_told(codec, tmp_path):
    with short_chunks(50):
        files.encode_file(SPEECH, tmp_path / "a.tok", codec)
    files.decode_file(tmp_path / "a.tok", tmp_path / "a.wav", codec)
    whole = soundfile.read(tmp_path / "a.wav")[0]
    content = bytearray((tmp_path / "a.tok").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "b.tok").write_bytes(content)
    with pytest.raises(TokError):
        files.decode_file(tmp_path / "b.tok", tmp_path / "b.wav", codec)
    repair(tmp_path / "b.tok", tmp_path / "c.tok")
    with pytest.raises(TokError, match="lost: --conceal decodes the rest"):
        files.decode_file(tmp_path / "c.tok", tmp_path / "c.wav", codec)
    for name in "bc":
        done = files.decode_file(tmp_path / f"{name}.tok", tmp_path / f"{name}.wav", codec, conceal=True)
        ((first, last),) = done.gaps
        assert last - first == 1
        mended = soundfile.read(tmp_path / f"{name}.wav")[0]
        assert len(mended) == len(whole)
        before, after = round(first * 16000), round(last * 16000)
        known = before - codec.delay  # the windows of the lost frames reach as far back
        np.testing.assert_allclose(mended[:known], whole[:known], atol=1e-4)
        # the decoder has forgotten the gap once its receptive field has passed
        clear = after + 320 * (int(codec.decoder.receptive_field().back) + 1)
        np.testing.assert_allclose(mended[clear:], whole[clear:], atol=1e-4)
        assert np.abs(mended[before + 960 : after]).max() == 0
        steps = np.abs(np.diff(mended[before - 100 : after + 400]))
        assert steps.max() <= 1.5 * np.abs(np.diff(whole)).max()


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_file_keeps_its_length_and_its_whole_chunks(codec, tmp_path, share):
    with short_chunks(50):
        files.encode_file(SPEECH, tmp_path / "a.tok", codec)
    content = (tmp_path / "a.tok").read_bytes()
    (tmp_path / "b.tok").write_bytes(content[: round(share * len(content))])
    done = files.decode_file(tmp_path / "b.tok", tmp_path / "b.wav", codec, conceal=True)
    assert done.num_samples == soundfile.info(tmp_path / "b.wav").frames == 158608
    ((first, last),) = done.gaps
    assert 10 * share - 1.5 < first < 10 * share
    assert last == 9.92
