"""Sound files in every state, channel policies and resampling."""

import io
import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from codec import audio
from codec.errors import AudioError

DATA = Path(__file__).parent / "data"
SPEECH = DATA / "speech.flac"


def noise(channels: int, samples: int, seed: int = 0) -> audio.Audio:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (channels, samples)).astype(np.float32)


# reading


def test_probe_and_read_agree_with_the_manifest_facts() -> None:
    info = audio.probe(DATA / "music_48k_stereo.flac")
    samples, rate = audio.read(DATA / "music_48k_stereo.flac")
    assert (info.sample_rate, info.channels) == (rate, samples.shape[0]) == (48000, 2)
    assert samples.shape[1] == info.frames
    assert info.seconds == pytest.approx(6.8569, abs=1e-3)
    assert samples.dtype == np.float32
    assert 0.1 < np.abs(samples).max() <= 1


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus"])
def test_a_part_equals_the_same_part_of_the_whole(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    samples, rate = audio.read(SPEECH)
    path = tmp_path / f"speech.{suffix}"
    options = {"mp3": ("MP3", None), "opus": ("OGG", "OPUS")}.get(suffix, (suffix.upper(), None))
    soundfile.write(path, samples[0, : 4 * rate], rate, format=options[0], subtype=options[1])
    whole, _ = audio.read(path)
    part, _ = audio.read(path, start=30001, frames=9000)
    assert whole.shape == (1, 4 * rate)
    tolerance = 5e-3 if suffix == "opus" else 1e-6  # an Opus decoder converges after a seek
    np.testing.assert_allclose(part, whole[:, 30001:39001], atol=tolerance)
    correlation = np.corrcoef(whole[0], samples[0, : 4 * rate])[0, 1]
    assert correlation > 0.9
    assert capfd.readouterr().err == ""


def test_blocks_join_to_the_whole() -> None:
    whole, _ = audio.read(SPEECH)
    with audio.Reader(SPEECH) as reader:
        blocks = list(reader.blocks(7777))
    assert {b.shape[1] for b in blocks[:-1]} == {7777}
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


def test_reads_from_file_objects_and_pipes() -> None:
    whole, _ = audio.read(SPEECH)
    data = SPEECH.read_bytes()
    np.testing.assert_array_equal(audio.read(io.BytesIO(data))[0], whole)
    out, into = os.pipe()

    def send() -> None:
        with open(into, "wb") as pipe:
            pipe.write(data)

    sender = threading.Thread(target=send)
    sender.start()
    with open(out, "rb") as pipe:
        np.testing.assert_array_equal(audio.read(pipe)[0], whole)
    sender.join()


def test_a_wav_from_a_pipe_with_unknown_length(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", noise(1, 1000), 16000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    assert audio.read(io.BytesIO(data))[0].shape == (1, 1000)


def test_a_flac_of_unknown_length(tmp_path: Path) -> None:
    data = bytearray(SPEECH.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(data)
    assert audio.probe(tmp_path / "a.flac").frames is None
    np.testing.assert_array_equal(audio.read(tmp_path / "a.flac")[0], audio.read(SPEECH)[0])


def bad_inputs(folder: Path) -> dict[str, str]:
    """Writes one bad file of each kind; returns file name -> what the message must say."""
    (folder / "text.wav").write_text("not audio at all " * 50)
    (folder / "text.mp3").write_text("not audio at all " * 50)
    (folder / "bytes.raw").write_bytes(b"1234" * 50)
    (folder / "empty.wav").write_bytes(b"")
    audio.write(folder / "nothing.wav", np.zeros((1, 0), np.float32), 16000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        samples = noise(2, 5000)
        samples[1, 1234] = value
        soundfile.write(folder / name, samples.T, 16000, subtype="FLOAT")
    (folder / "cut.flac").write_bytes(SPEECH.read_bytes()[:90000])
    (folder / "folder.wav").mkdir()
    return {
        "text.wav": "not a sound file",
        "text.mp3": "not a sound file",
        "bytes.raw": "not a sound file",
        "empty.wav": "is empty",
        "nothing.wav": "contains no samples",
        "nan.wav": "sample 1234 is not a finite number",
        "inf.wav": "sample 1234 is not a finite number",
        "cut.flac": "damaged near sample",
        "folder.wav": "is a folder",
        "missing.wav": "No such file",
    }


def test_bad_input_gives_one_sentence_that_names_the_file(tmp_path: Path) -> None:
    for name, message in bad_inputs(tmp_path).items():
        with pytest.raises(AudioError, match=message) as caught:
            audio.read(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_an_unreadable_file(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", noise(1, 10), 16000)
    (tmp_path / "a.wav").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(AudioError, match="Permission denied"):
            audio.read(tmp_path / "a.wav")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("rate", "channels", "samples"),
    [(16000, 1, 1), (8000, 1, 801), (192000, 1, 19201), (44100, 8, 3000), (44100, 2, 1)],
)
def test_odd_but_good_input_comes_back_exactly_as_long(
    tmp_path: Path, rate: int, channels: int, samples: int
) -> None:
    audio.write(tmp_path / "a.wav", noise(channels, samples), rate)
    source, _ = audio.read(tmp_path / "a.wav")
    model, plan = audio.to_model(source, rate, 24000, 1)
    assert model.shape == (1, 1, -(-samples * 24000 // rate))
    assert audio.from_model(model, plan, samples).shape == (1, samples)


# writing


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_sixteen_bits_survive_exactly(tmp_path: Path, suffix: str) -> None:
    samples, rate = audio.read(DATA / "guitar_48k_stereo.flac", frames=50000)
    audio.write(tmp_path / f"a.{suffix}", samples, rate)
    np.testing.assert_array_equal(audio.read(tmp_path / f"a.{suffix}")[0], samples)


def test_samples_beyond_full_scale_are_clipped_not_wrapped(tmp_path: Path) -> None:
    loud = np.array([[0, 0.5, 1, 1.5, -1, -3]], np.float32)
    audio.write(tmp_path / "a.wav", loud, 16000)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], [[0, 0.5, 1, 1, -1, -1]], atol=4e-5)
    audio.write(tmp_path / "b.wav", loud, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(audio.read(tmp_path / "b.wav")[0], loud)
    audio.write(tmp_path / "c.flac", loud, 16000, subtype="PCM_24")
    np.testing.assert_allclose(audio.read(tmp_path / "c.flac")[0], [[0, 0.5, 1, 1, -1, -1]], atol=2e-7)


def test_ogg_takes_a_long_block(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.ogg", noise(2, 1_500_000) * 0.1, 44100)
    assert audio.probe(tmp_path / "a.ogg").frames == 1_500_000


def test_writes_to_a_stream_that_cannot_seek() -> None:
    out, into = os.pipe()
    received: list[bytes] = []

    def receive() -> None:
        with open(out, "rb") as pipe:
            received.append(pipe.read())

    receiver = threading.Thread(target=receive)
    receiver.start()
    with open(into, "wb") as pipe:
        audio.write(pipe, noise(1, 100_000), 16000, format="flac")
    receiver.join()
    assert audio.read(io.BytesIO(received[0]))[0].shape == (1, 100_000)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    audio.write(target, noise(1, 100), 16000)
    before = target.read_bytes()
    with pytest.raises(AudioError, match="not finite"):
        audio.write(target, np.full((1, 10), np.nan, np.float32), 16000)
    writer = audio.Writer(target, 16000, 1)
    writer.write(noise(1, 50))
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.wav"]


def test_a_link_and_a_device_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    audio.write(tmp_path / "link.wav", noise(1, 100), 16000)
    assert (tmp_path / "link.wav").is_symlink()
    assert audio.probe(tmp_path / "real.wav").frames == 100
    audio.write("/dev/null", noise(1, 100), 16000)
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    ("name", "rate", "channels", "message"),
    [
        ("a.xyz", 16000, 1, "cannot write 'xyz' files"),
        ("no/folder/a.wav", 16000, 1, "No such file"),
        (".", 16000, 1, "is a folder"),
        ("a.flac", 16000, 9, "9 channels"),
    ],
)
def test_targets_that_cannot_be_written(
    tmp_path: Path, name: str, rate: int, channels: int, message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        audio.write(tmp_path / name, noise(channels, 10), rate)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    script = (
        "import sys, signal, resource, numpy as np; from codec import audio, errors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "x = np.random.default_rng(0).uniform(-.5, .5, (1, 200000)).astype('f4')\n"
        "try: audio.write(sys.argv[1], x, 16000)\n"
        "except errors.AudioError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / f"a.{suffix}"], capture_output=True, text=True
    )
    assert "is the disk full?" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []


# conversion


@pytest.mark.parametrize(
    ("channels", "model_channels", "policy", "done", "shape", "restored"),
    [
        (1, 1, "mix", "keep", (1, 1), 1),
        (2, 2, "mix", "keep", (1, 2), 2),
        (2, 1, "mix", "mix", (1, 1), 1),
        (8, 1, "mix", "mix", (1, 1), 1),
        (8, 2, "mix", "mix", (1, 2), 1),
        (1, 2, "mix", "duplicate", (1, 2), 1),
        (1, 2, "refuse", None, None, 0),
        (2, 1, "split", "split", (2, 1), 2),
        (1, 1, "split", "keep", (1, 1), 1),
        (8, 2, "split", None, None, 0),
        (2, 1, "refuse", None, None, 0),
        (2, 1, "typo", None, None, 0),
    ],
)
def test_channel_policies(
    channels: int,
    model_channels: int,
    policy: str,
    done: str | None,
    shape: tuple[int, int] | None,
    restored: int,
) -> None:
    source = noise(channels, 1000)
    if done is None:
        with pytest.raises(AudioError):
            audio.to_model(source, 16000, 16000, model_channels, policy)
        return
    model, plan = audio.to_model(source, 16000, 16000, model_channels, policy)
    assert (plan.policy, plan.resampler) == (done, "none")
    assert (*model.shape, plan.streams) == (*shape, 1000, shape[0])
    back = audio.from_model(model, plan, 1000)
    expected = source.mean(axis=0, keepdims=True) if done == "mix" else source
    assert (*back.shape, plan.restored_channels) == (restored, 1000, restored)
    np.testing.assert_allclose(back, expected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    rates=st.sampled_from([(44100, 16000), (8000, 24000), (48000, 24000), (16000, 22050), (192000, 16000)]),
    channels=st.sampled_from([1, 2, 8]),
    cuts=st.lists(st.integers(0, 20000), max_size=8),
    policy=st.sampled_from(["mix", "split"]),
)
def test_blocks_convert_exactly_as_the_whole(
    rates: tuple[int, int], channels: int, cuts: list[int], policy: str
) -> None:
    source = noise(channels, 20000)
    whole, plan = audio.to_model(source, rates[0], rates[1], 1, policy)
    edges = [0, *sorted(cuts), 20000]
    forward = audio.ToModel(plan)
    blocks = [forward.push(source[:, a:b]) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([*blocks, forward.flush()], axis=2), whole)
    backward = audio.FromModel(plan, 20000)
    edges = [min(e, whole.shape[2]) for e in edges[:-1]] + [whole.shape[2]]
    blocks = [backward.push(whole[:, :, a:b]) for a, b in itertools.pairwise(edges)]
    back = np.concatenate([*blocks, backward.flush()], axis=1)
    np.testing.assert_array_equal(back, audio.from_model(whole, plan, 20000))
    assert back.shape[1] == 20000


@pytest.mark.parametrize(("low", "high"), [(16000, 24000), (16000, 44100), (22050, 48000)])
def test_up_and_down_again_restores_the_signal_in_place(low: int, high: int) -> None:
    time = np.arange(low) / low
    source = (
        sum(np.sin(2 * np.pi * f * time + f) for f in (100, 1000, 0.42 * low))[None].astype(np.float32) * 0.2
    )
    up, plan = audio.to_model(source, low, high, 1)
    back = audio.from_model(up, plan, low)
    np.testing.assert_allclose(back[:, 1000:-1000], source[:, 1000:-1000], atol=5e-4)


def test_what_lies_above_the_new_band_is_removed() -> None:
    time = np.arange(48000) / 48000
    tone = np.sin(2 * np.pi * 9000 * time)[None].astype(np.float32)  # would alias to 7 kHz
    low, _ = audio.to_model(tone, 48000, 16000, 1)
    assert np.abs(low[0, 0, 1000:-1000]).max() < 1e-4


def test_the_resampler_is_the_pinned_one() -> None:
    """Another resampler, or another quality of it, gives other samples than these."""
    impulse = np.zeros((1, 101), np.float32)
    impulse[0, 50] = 1
    out, plan = audio.to_model(impulse, 44100, 16000, 1)
    assert plan.resampler == audio.RESAMPLER == "soxr VHQ"
    pinned = [0.00766427, -0.0281932, 0.33647636, 0.07154175, -0.03998963]
    np.testing.assert_allclose(out[0, 0, 16:21], pinned, atol=1e-6)


def test_an_hour_is_converted_in_constant_memory(tmp_path: Path) -> None:
    """Peak memory of a process that reads, converts and writes 1 or 60 minutes differs by little."""
    script = (
        "import sys, resource; from codec import audio\n"
        "with audio.Reader(sys.argv[1]) as r, audio.Writer(sys.argv[2], 16000, 1) as w:\n"
        "    to = audio.ToModel(audio.plan(r.info.sample_rate, r.info.channels, 16000, 1))\n"
        "    for block in r.blocks(): w.write(to.push(block)[0])\n"
        "    w.write(to.flush()[0])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for minutes in (1, 60):
        with audio.Writer(tmp_path / "long.wav", 8000, 2) as writer:
            for _ in range(minutes):
                writer.write(np.zeros((2, 60 * 8000), np.float32))
        command = [sys.executable, "-c", script, tmp_path / "long.wav", tmp_path / "out.wav"]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        assert audio.probe(tmp_path / "out.wav").frames == minutes * 60 * 16000
    assert peaks[1] < peaks[0] + 20_000  # KiB


def test_importing_audio_loads_no_torch() -> None:
    script = "import sys, codec.audio; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"


# what is wrong with a recording


def warned(sound: audio.Audio, *, mixed: bool = True) -> list[str]:
    meter = audio.Meter(len(sound))
    for start in range(0, sound.shape[1], 777):
        meter.push(sound[:, start : start + 777])
    return meter.warnings(mixed=mixed)


def test_channels_that_cancel_are_named_with_the_number() -> None:
    one = noise(1, 9000)
    rest = 10 ** (-43 / 20) * noise(1, 9000, 1)
    (warning,) = warned(np.concatenate([one + rest, rest - one]))
    assert "their mix is 43 dB below them" in warning
    assert warned(np.concatenate([one + rest, rest - one]), mixed=False) == []
    assert warned(np.concatenate([one, one])) == []
    assert warned(np.concatenate([one, -one])) != []
    assert warned(np.zeros((2, 9000), np.float32)) == []


def test_an_offset_and_clipping_are_named_with_the_number() -> None:
    sound = noise(2, 20000)
    sound[1] += 0.12 - sound[1].mean()
    assert warned(sound) == ["channel 2 has an offset (DC) of 0.120 of full scale"]
    sine = np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)[None].astype(np.float32)
    assert warned(0.9 * sine) == warned(sine) == []
    clipped = np.clip(2 * sine, -1, 1)
    share = 100 * float((np.abs(2 * sine) >= 1).mean())
    (warning,) = warned(clipped)
    assert warning.endswith("% of the samples are clipped")
    assert abs(float(warning.split("%")[0]) - share) < 0.5
    assert warned(4 * sine)[-1] == "the peak is 12.0 dB above full scale"


def test_integers_kept_as_floats_are_refused(tmp_path: Path) -> None:
    sound = 0.1 * noise(1, 1000)
    sound[0, 500] = 3000
    soundfile.write(tmp_path / "a.wav", sound.T, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"sample 500 is 3000, and full scale is 1\.0"):
        audio.read(tmp_path / "a.wav")


@pytest.mark.parametrize(("rate", "channels"), [(2_000_000_000, 1), (16000, 1500)])
def test_what_a_header_cannot_mean_is_refused_before_anything_is_sized_by_it(
    rate: int, channels: int
) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((64000, 1)), 16000, format="WAV", subtype="PCM_16")
    data = bytearray(file.getvalue())
    data[22:24], data[24:28] = channels.to_bytes(2, "little"), rate.to_bytes(4, "little")
    data[32:34] = (2 * channels).to_bytes(2, "little")
    with pytest.raises(AudioError):
        audio.read(io.BytesIO(data))


# walking through folders


def test_a_walk_takes_regular_files_once_and_names_the_rest(tmp_path: Path) -> None:
    for name in ("a.wav", "deep/b.flac", "deep/notes.txt", "outside/c.wav", ".hidden.wav"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(name.encode())
    root = tmp_path / "in"
    (root / "outside").rename(tmp_path / "outside")
    (root / "again.wav").symlink_to(root / "a.wav")
    (root / "self").symlink_to(root)
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "gone.wav").symlink_to(tmp_path / "nothing")
    (root / "results").mkdir()
    (root / "results" / "old.wav").touch()
    os.mkfifo(root / "pipe.wav")
    os.mkdir(os.fsencode(root / "odd") + b"\xe9")
    odd = os.fsencode(root / "odd") + b"\xe9/\xff.WAV"
    with open(odd, "wb"):
        pass
    found = audio.walk(root, (".wav", ".flac"), skip=str(root / "results"))
    places = [os.path.relpath(path, root) for path in found.files]
    assert places == ["a.wav", "deep/b.flac", os.path.relpath(os.fsdecode(odd), root), "linked/c.wav"]
    assert {os.path.relpath(path, root): why for path, why in found.left_out.items()} == {
        "again.wav": "found under another name too",
        "self": "found under another name too",
        "gone.wav": "broken link",
        "pipe.wav": "named pipe",
    }
    assert found.others == {"txt": 1}
    assert found.summary() == "1 txt, 1 broken link, 2 found under another name too, 1 named pipe"
