"""Containers x codings x odd headers x ways in: the same samples everywhere, as many as ffmpeg finds."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest

from codec import audio
from codec.audio.pcm import PcmReader
from codec.data.recordings import Recording, probe
from codec.errors import AudioError
from tests.fuzz_input import SOUNDS

DATA = Path(__file__).parent / "data"
SECONDS = 2.5


def ffmpeg(*arguments: object) -> bytes:
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout


def counted(path: Path) -> int:
    """Samples that ffmpeg finds in a mono file; what it cannot decode it leaves out."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", str(path), "-map", "0:a:0", "-f", "s16le", "-"]
    return len(subprocess.run(command, capture_output=True, timeout=60).stdout) // 2


class Zoo:
    """Files of every kind, made when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "source.wav"
        ffmpeg(
            "-ss", 1, "-t", SECONDS, "-i", DATA / "music_48k_stereo.flac", "-ac", 1, "-ar", 44100, self.source
        )

    def make(self, suffix: str) -> Path:
        path = self.folder / f"sound.{suffix}"
        if not path.exists():
            ffmpeg("-i", self.source, *SOUNDS[suffix].split(), path)
        return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


class Pipe(io.RawIOBase):
    """Bytes that come in order and once."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        return self._data.readinto(buffer)


def read_every_way(path: Path, *, live: bool = True) -> tuple[audio.Audio, int, list[str]]:
    """The samples, which are the same by name, from a pipe, an object, a part of a file and in a live stream."""
    with audio.Reader(path) as reader:
        whole = np.concatenate(list(reader.blocks(10007)), axis=1)
        rate, notes = reader.info.sample_rate, reader.notes
    data = path.read_bytes()
    inside = path.with_suffix(".inside")
    inside.write_bytes(b"x" * 333 + data + b"y" * 55)
    with audio.Reader(inside, part=(333, len(data))) as reader:
        parts = reader.read(1 << 30)
    ways = {
        "pipe": audio.read(cast(BinaryIO, io.BufferedReader(Pipe(data))))[0],
        "object": audio.read(io.BytesIO(data))[0],
        "part": parts,
    }
    if live:
        stream = PcmReader(cast(BinaryIO, io.BufferedReader(Pipe(data))), sample_rate=1, channels=1)
        ways["stream"] = np.concatenate(list(stream), axis=1)
        assert stream.sample_rate == rate
    for way, samples in ways.items():
        assert np.array_equal(samples, whole), way
    return whole, rate, notes


def check_seeking(path: Path, whole: audio.Audio, tolerance: float) -> None:
    """Random places, and those near both ends, against reading through; crops of training against the whole."""
    length = whole.shape[1]
    recording = probe(Recording(str(path), 0, 0))
    assert recording.frames == length
    places = [*np.random.default_rng(0).integers(0, length - 500, 6), 0, 1, length - 500, length // 2]
    with audio.Reader(path) as reader:
        assert reader.count() == length
        for place in map(int, places):
            reader.seek(place)
            part = reader.read(500)
            np.testing.assert_allclose(part, whole[:, place : place + 500], atol=tolerance)
            crop = recording.crop(place, 500, recording.sample_rate, 1)
            np.testing.assert_allclose(crop, whole[:, place : place + 500], atol=tolerance)
        reader.seek(length)
        assert reader.read(1).shape == (1, 0)


@pytest.mark.parametrize("suffix", SOUNDS)
def test_every_container_and_coding(zoo: Zoo, suffix: str) -> None:
    path = zoo.make(suffix)
    whole, _, notes = read_every_way(path)
    assert whole.shape == (1, counted(path))
    assert notes == []
    check_seeking(path, whole, 5e-3 if suffix == "opus" else 1e-6)
    assert path.suffix in audio.SUFFIXES
    # the sound itself, where the coding keeps it
    if path.suffix in (".flac", ".aiff", ".caf", ".tta", ".wv") or suffix in ("wav", "rf64.wav"):
        assert np.array_equal(whole, audio.read(zoo.source)[0])


def wav_with(size: int | None) -> Callable[[bytes], bytes]:
    """A WAV whose data chunk claims another size."""

    def change(data: bytes) -> bytes:
        at = data.index(b"data") + 4
        told = int.from_bytes(data[at : at + 4], "little")
        return data[:at] + (told if size is None else size).to_bytes(4, "little") + data[at + 4 :]

    return change


def id3(data: bytes) -> bytes:
    return b"ID3\3\0\0\0\0\1\x10" + bytes(144) + data


def flac_of(total: int) -> Callable[[bytes], bytes]:
    """A FLAC whose header declares another number of samples."""
    return lambda data: data[:21] + bytes([data[21] & 0xF0]) + total.to_bytes(4, "big") + data[26:]


def without_pages(first: int, last: int) -> Callable[[bytes], bytes]:
    """An Ogg that lacks some pages."""

    def change(data: bytes) -> bytes:
        pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
        return b"".join(pages[:first] + pages[last:])

    return change


ODD = {
    "size 0": ("wav", wav_with(0)),
    "size FFFFFFFF": ("wav", wav_with(0xFFFFFFFF)),
    "size 7FFFFFFF": ("wav", wav_with(0x7FFFFFFF)),
    "size 2000000000": ("wav", wav_with(2_000_000_000)),
    "a tag before RIFF": ("wav", id3),
    "a chunk behind": ("wav", lambda data: data + b"LIST\4\0\0\0abcd"),
    "size 0 of RF64": ("rf64.wav", lambda data: data[:20] + bytes(16) + data[36:]),
    "FLAC without length": ("flac", flac_of(0)),
    "FLAC with too small a length": ("flac", flac_of(50000)),
    "a tag before FLAC": ("flac", id3),
    "a tag before MP3": ("mp3", id3),
    "MP3 cut at the front": ("noxing.mp3", lambda data: data[3000:]),
    "joined MP3": ("mp3", lambda data: data + data),
    "joined MP3 without headers": ("noxing.mp3", lambda data: data * 3),
    "an old tag behind": ("mp3", lambda data: data + b"TAG" + b"song".ljust(125, b"\0")),
    "joined AAC": ("aac", lambda data: data + data),
    "chained Vorbis": ("ogg", lambda data: data + data),
    "chained Opus": ("opus", lambda data: data + data + data),
    "chained Ogg FLAC": ("flac.oga", lambda data: data + data),
    "a broadcast": ("ogg", without_pages(2, 4)),
    "a cut Ogg": ("ogg", lambda data: data[: len(data) * 2 // 3]),
    "a cut webm": ("webm", lambda data: data[: len(data) * 2 // 3]),
}
STRAY = bytes(np.random.default_rng(0).integers(0, 250, 3000, np.uint8))


@pytest.mark.parametrize("name", ODD)
def test_odd_headers_and_joined_streams(zoo: Zoo, name: str, tmp_path: Path) -> None:
    suffix, change = ODD[name]
    original = zoo.make(suffix).read_bytes()
    path = tmp_path / f"odd.{suffix}"
    path.write_bytes(change(original))
    assert path.read_bytes() != original
    # a live stream has to tell sound files from bare samples by their first bytes
    whole, _, _ = read_every_way(path, live=name != "MP3 cut at the front")
    wanted = {"size 0 of RF64": 110250, "a tag before RIFF": 110250}.get(name) or counted(path)
    # ffmpeg's decoders of version 5 and of later ones differ in what they drop where streams meet
    assert abs(whole.shape[1] - wanted) <= (2400 if "joined" in name or "chained" in name else 0)
    assert whole.shape[1] > 20000
    check_seeking(path, whole, 5e-3 if suffix == "opus" else 1e-6)


def test_stray_bytes_before_an_mp3(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "stray.mp3"
    path.write_bytes(STRAY + zoo.make("noxing.mp3").read_bytes())
    named, _ = audio.read(path)
    piped, _ = audio.read(cast(BinaryIO, io.BufferedReader(Pipe(path.read_bytes()))))
    assert named.shape == (1, counted(path))
    assert np.array_equal(named, piped)


@pytest.mark.parametrize(
    ("suffix", "change", "words"),
    [
        ("wav", lambda data: data + data, "a second recording begins"),
        ("flac", lambda data: data + data, "damaged near sample"),
        ("flac", lambda data: data[: len(data) // 2], "damaged near sample"),
        ("flac", flac_of(1 << 30), "is cut: it ends after 110250 of 1073741824"),
        ("mp3", lambda data: data[: len(data) // 2], "is cut: it ends after"),
        ("wav", wav_with(None), None),
    ],
    ids=["joined WAV", "joined FLAC", "cut FLAC", "FLAC that claims more", "cut MP3", "nothing"],
)
def test_what_is_not_all_there_is_said(
    zoo: Zoo, suffix: str, change: Callable[[bytes], bytes], words: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"odd.{suffix}"
    path.write_bytes(change(zoo.make(suffix).read_bytes()))
    for source in (path, io.BytesIO(path.read_bytes())):
        if words is None:
            audio.read(source)
            continue
        with pytest.raises(AudioError, match=words):
            audio.read(source)


def test_streams_of_several_rates_are_said_not_mixed(zoo: Zoo, tmp_path: Path) -> None:
    ffmpeg("-i", zoo.source, "-ar", 22050, "-c:a", "libvorbis", tmp_path / "slow.ogg")
    both = zoo.make("ogg").read_bytes() + (tmp_path / "slow.ogg").read_bytes()
    with pytest.raises(
        AudioError, match=f"a second recording begins at byte {len(zoo.make('ogg').read_bytes())}"
    ):
        audio.read(io.BytesIO(both))


def notes_of(data: bytes) -> list[str]:
    with audio.Reader(io.BytesIO(data)) as reader:
        for _ in reader.blocks():
            pass
        return reader.notes


def test_what_is_missing_is_noted(zoo: Zoo) -> None:
    wav, ogg, mp3 = (zoo.make(suffix).read_bytes() for suffix in ("wav", "ogg", "noxing.mp3"))
    assert notes_of(wav[: len(wav) // 2]) == ["only 50.0% of the samples that the header declares are there"]
    (note,) = notes_of(without_pages(3, 4)(ogg))
    assert note == "1 pages of the Ogg stream are missing"
    middle = len(mp3) // 2
    (note,) = notes_of(mp3[:middle] + bytes(300) + mp3[middle + 300 :])
    assert "damaged packets of sound are left out" in note


def sox(folder: Path) -> Iterator[Path]:
    for name, options in {
        "a.sph": "",
        "b.voc": "",
        "c.aifc": "",
        "d.wav": "-e ima-adpcm",
        "e.au": "-e a-law",
    }.items():
        path = folder / name
        command = ["sox", "-D", folder / "source.wav", *options.split(), path]
        subprocess.run(command, check=True, timeout=60)
        yield path


def test_files_that_sox_writes(zoo: Zoo) -> None:
    for path in sox(zoo.folder):
        whole, _, _ = read_every_way(path)
        assert whole.shape == (1, counted(path)), path
        check_seeking(path, whole, 1e-6)


def test_a_short_run_of_the_fuzzer(tmp_path: Path) -> None:
    from tests.fuzz_input import fuzz

    outcomes = fuzz(300, 0, tmp_path)
    assert (
        min(
            outcomes[f"{what} {how}"]
            for what in ("sound", "manifest", "shard")
            for how in ("read", "refused")
        )
        > 0
    )
