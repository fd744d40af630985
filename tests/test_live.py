"""Live links: the packets and the sound of a pipe are those of files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import SPEECH, make_model

from codec import audio, files
from codec.audio.pcm import PcmReader, PcmWriter
from codec.bitstream import TokReader, read_tok
from codec.errors import AudioError, CodecError, TokError
from codec.live import Clock, decode_live, encode_live

SECONDS = 3


@pytest.fixture(scope="module")
def codec(tiny_model):
    return files.load(tiny_model)


@pytest.fixture(scope="module")
def samples():
    return soundfile.read(SPEECH, dtype="int16", frames=SECONDS * 16000 + 7)[0]


class Pipe(io.BytesIO):
    """Gives what it holds in pieces of random size, as pipes do."""

    def __init__(self, content: bytes, largest: int = 5000) -> None:
        super().__init__(content)
        self._sizes = np.random.default_rng(0)
        self._largest = largest

    def read1(self, size: int | None = -1) -> bytes:
        return self.read(min(size or self._largest, int(self._sizes.integers(1, self._largest))))

    def seekable(self) -> bool:
        return False


def wav(samples, rate=16000, **settings) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **settings)
    return file.getvalue()


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_link_gives_the_codes_and_the_sound_of_the_file(codec, samples, tmp_path, rate):
    content, packets, sound, clock = wav(samples, rate), io.BytesIO(), io.BytesIO(), Clock()
    encode_live(Pipe(content), packets, codec, clock=clock)
    (tmp_path / "a.wav").write_bytes(content)
    files.encode_file(tmp_path / "a.wav", tmp_path / "a.tok", codec)
    (tmp_path / "b.tok").write_bytes(packets.getvalue())
    (header, codes), (live_header, live_codes) = (read_tok(tmp_path / f"{name}.tok") for name in "ab")
    assert live_header == header
    assert np.array_equal(live_codes, codes)
    assert clock.sound == pytest.approx(len(samples) / rate)
    assert "s of computing for a second of sound" in clock.report()

    decode_live(Pipe(packets.getvalue()), sound, codec, wav=False)
    files.decode_file(tmp_path / "a.tok", tmp_path / "out.wav", codec)
    expected = soundfile.read(tmp_path / "out.wav", dtype="int16")[0]
    assert np.array_equal(np.frombuffer(sound.getvalue(), "<i2"), expected)


@pytest.mark.parametrize("kept", [0.4, 0.999])
def test_a_link_conceals_the_lost_end_of_a_file(codec, tmp_path, kept):
    """Its header tells how much is missing."""
    files.encode_file(SPEECH, tmp_path / "whole.tok", codec)
    content = (tmp_path / "whole.tok").read_bytes()
    content = content[: int(kept * len(content))]
    (tmp_path / "cut.tok").write_bytes(content)
    files.decode_file(tmp_path / "cut.tok", tmp_path / "cut.wav", codec, conceal=True)
    sound = io.BytesIO()
    decode_live(Pipe(content), sound, codec, wav=False)
    expected = soundfile.read(tmp_path / "cut.wav", dtype="int16")[0]
    assert len(expected) == soundfile.info(SPEECH).frames
    assert np.array_equal(np.frombuffer(sound.getvalue(), "<i2"), expected)


def test_every_frame_is_a_packet_of_its_own(codec, samples):
    class Listener(io.BytesIO):
        packets = 0

        def flush(self) -> None:
            Listener.packets += 1

    encode_live(Pipe(samples.tobytes(), 300), Listener(), codec)
    # header, frames, end
    assert Listener.packets >= len(samples) // 320 + 3


def test_bare_samples_and_half_a_sample_at_the_end(codec, samples, tmp_path):
    outputs = []
    for content in (wav(samples), samples.tobytes(), samples.tobytes() + b"x"):
        outputs.append(io.BytesIO())
        encode_live(Pipe(content), outputs[-1], codec)
    assert outputs[0].getvalue() == outputs[1].getvalue() == outputs[2].getvalue()


def test_an_interrupted_recording_is_a_whole_file(codec, samples, tmp_path):
    class Interrupted(Pipe):
        def read1(self, size: int | None = -1) -> bytes:
            if self.tell() > 20000:
                raise KeyboardInterrupt
            return super().read1(size)

    packets = io.BytesIO()
    encode_live(Interrupted(samples.tobytes()), packets, codec)
    (tmp_path / "a.tok").write_bytes(packets.getvalue())
    header, codes = read_tok(tmp_path / "a.tok")
    assert 10000 <= header.num_samples < 12500
    assert codes.shape[1] == -(-header.num_samples // 320)


def test_lost_packets_are_faded_over_in_time(codec, samples):
    packets, clean, mended = io.BytesIO(), io.BytesIO(), io.BytesIO()
    encode_live(Pipe(samples.tobytes()), packets, codec)
    content = bytearray(packets.getvalue())
    decode_live(Pipe(bytes(content)), clean, codec, wav=False)
    for at in (10, len(content) // 2, len(content) // 2 + 40):
        content[at] ^= 1
    decode_live(Pipe(bytes(content)), mended, codec, wav=False)
    before, after = (np.frombuffer(file.getvalue(), "<i2") for file in (clean, mended))
    assert len(before) == len(after)
    assert not np.array_equal(before, after)
    assert np.array_equal(before[: len(before) // 3], after[: len(before) // 3])
    assert np.abs(before[-3200:].astype(int) - after[-3200:]).max() <= 2


@pytest.mark.parametrize("lost", [[0], [0, 1, 2], [40], [149], [3, 4, 90, 91, 92]])
def test_a_link_conceals_what_a_file_conceals(codec, samples, tmp_path, lost):
    """Sample for sample, whatever is lost, the first packet included."""
    packets, sound = io.BytesIO(), io.BytesIO()
    encode_live(Pipe(samples.tobytes()), packets, codec)
    content, reader = bytearray(packets.getvalue()), TokReader(io.BytesIO(packets.getvalue()))
    for index, span in enumerate(reader.spans()):
        if index in lost:
            content[span.offset + 6] ^= 255
    decode_live(Pipe(bytes(content)), sound, codec, wav=False)
    (tmp_path / "a.tok").write_bytes(content)
    done = files.decode_file(tmp_path / "a.tok", tmp_path / "a.wav", codec, conceal=True)
    assert sum(round((after - first) * 50) for first, after in done.gaps) == len(lost)
    expected = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
    assert np.array_equal(np.frombuffer(sound.getvalue(), "<i2"), expected)


@pytest.mark.parametrize(
    ("subtype", "scale"), [("PCM_16", 2**-15), ("PCM_24", 2**-23), ("PCM_32", 2**-24), ("FLOAT", 0)]
)
def test_wav_codings(subtype, scale):
    sound = np.random.default_rng(0).uniform(-1, 1, (777, 3))
    reader = PcmReader(Pipe(wav(sound, 22050, subtype=subtype), 50), sample_rate=1, channels=1)
    heard = np.concatenate(list(reader), axis=1)
    assert (reader.sample_rate, reader.channels, reader.position) == (22050, 3, 777)
    np.testing.assert_allclose(heard.T, sound, atol=scale + 1e-7)


def test_a_recorder_that_does_not_know_the_end(samples):
    file = io.BytesIO()
    writer = PcmWriter(file, 16000, 2)
    sound = (np.stack([samples, samples[::-1]]) / 2**15).astype(np.float32)
    for start in range(0, sound.shape[1], 1000):
        writer.write(sound[:, start : start + 1000])
    assert np.array_equal(
        np.concatenate(list(PcmReader(Pipe(file.getvalue()), sample_rate=1, channels=1)), 1), sound
    )
    writer.write(np.array([[2.0], [-2.0]], np.float32))
    assert struct.unpack("<hh", file.getvalue()[-4:]) == (32767, -32768)


@pytest.mark.parametrize("kind", [("WAV", "PCM_U8"), ("WAV", "GSM610"), ("FLAC", None), ("AIFF", None)])
def test_what_is_not_plain_wav_is_what_it_is_by_name(kind, tmp_path):
    sound = np.random.default_rng(0).uniform(-1, 1, 8000)
    soundfile.write(tmp_path / "a", sound, 8000, format=kind[0], subtype=kind[1])
    reader = PcmReader(Pipe((tmp_path / "a").read_bytes(), 999), sample_rate=1, channels=1)
    heard = np.concatenate(list(reader), axis=1)
    named, rate = audio.read(tmp_path / "a")
    assert (rate, reader.sample_rate, reader.position) == (8000, 8000, heard.shape[1])
    assert np.array_equal(heard, named)


def test_what_follows_the_samples_of_a_pipe_is_no_secret():
    one = wav(np.ones(1000) / 2, subtype="PCM_16")
    with pytest.raises(AudioError, match="second recording begins after sample 1000"):
        list(PcmReader(Pipe(one + one), sample_rate=1, channels=1))
    cut = PcmReader(Pipe(one[:-1000]), sample_rate=1, channels=1)
    assert sum(block.shape[1] for block in cut) == 500
    assert cut.notes == ["only 50.0% of the samples that the header declares are there"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(np.zeros(9))[:30], "ends inside the WAV header"),
        (wav(np.zeros(9))[:20] + b"\x99\x99" + wav(np.zeros(9))[22:], "not a sound file"),
        (b"RIFF1234WAVEdata\0\0\0\0", "does not say what the samples are"),
        (b"RIFF1234WAVEfmt \xff\xff\xff\xff", "the WAV header is damaged"),
        (wav(np.array([0, np.nan]), subtype="FLOAT"), "not a finite number"),
    ],
    ids=[
        "cut header",
        "unknown coding",
        "no format",
        "long chunk",
        "nan",
    ],  # a float file carries the time it was written
)
def test_a_bad_source_is_refused(codec, content, words):
    with pytest.raises(AudioError, match=words):
        encode_live(Pipe(content), io.BytesIO(), codec)


def test_what_cannot_be_a_link_is_refused(codec, tiny_config, tmp_path):
    with pytest.raises(TokError, match=r"not a \.tok file"):
        decode_live(Pipe(b"RIFF, but no tokens"), io.BytesIO(), codec)
    parts = {"dim": 32, "rates": [5, 4], "kernels": [9, 8], "branch_kernels": [3], "dilations": [1]}
    model = {
        "sample_rate": 16000,
        "encoder": {"name": "hificodec_encoder", "width": 8} | parts,
        "decoder": {"name": "hificodec_decoder", "width": 32} | parts,
    }
    other = files.load(make_model(tmp_path / "m.safetensors", tiny_config | {"model": model}))
    with pytest.raises(CodecError, match="not causal"):
        encode_live(Pipe(bytes(100)), io.BytesIO(), other)


def test_a_listener_that_hangs_up_ends_the_link(tiny_model):
    """Real processes: the speaker is cut off while the microphone is still on."""
    verb = [sys.executable, "-c", "from codec.cli import main; main()", "stream", "encode", "--stats"]
    link = subprocess.Popen(
        [*verb, "--model", str(tiny_model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert link.stdin is not None
    assert link.stdout is not None
    assert link.stderr is not None
    link.stdin.write(bytes(32000))
    link.stdin.flush()
    assert link.stdout.read(100)
    link.stdout.close()
    try:
        for _ in range(1000):
            link.stdin.write(bytes(32000))
        link.stdin.close()
    except BrokenPipeError:
        pass
    message = link.stderr.read().decode()
    assert link.wait() == 0, message
    assert message.startswith("codec: frame 20 ms + computing ")
    assert message.count("\n") == 1
