"""Public corpora by name, in the layout that `torchaudio.datasets` downloads and expects."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from codec import assets
from codec.data.recordings import Recording
from codec.data.sources import Found, hold_out, probe_all
from codec.errors import ConfigError

_SPLITS = ("train-clean-100", "train-clean-360", "train-other-500")


def _libri(datasets: Any, name: str, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    """LibriSpeech and LibriTTS: <root>/<name>/<split>/<speaker>/<chapter>/*; dev-clean validates."""
    dataset = {"LibriSpeech": datasets.LIBRISPEECH, "LibriTTS": datasets.LIBRITTS}[name]
    home = root if root.name == name else root / name
    chosen = list(splits or [s for s in _SPLITS if (home / s).is_dir()] or _SPLITS[:1])
    if "dev-clean" not in chosen and (download or (home / "dev-clean").is_dir()):
        chosen.append("dev-clean")
    found = Found()
    for split in chosen:
        dataset(home.parent, url=split, download=download)
        files = sorted([*(home / split).glob("*/*/*.flac"), *(home / split).glob("*/*/*.wav")])
        recordings = [Recording(str(p), 0, 0, speaker=p.parts[-3]) for p in files]
        (found.valid if split.startswith("dev") else found.train).extend(recordings)
    return found


def _librispeech(datasets: Any, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    return _libri(datasets, "LibriSpeech", root, splits, download)


def _libritts(datasets: Any, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    return _libri(datasets, "LibriTTS", root, splits, download)


def _vctk(datasets: Any, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    """CSTR VCTK 0.92: <root>/VCTK-Corpus-0.92/wav48_silence_trimmed/<speaker>/*_mic1.flac."""
    home = root.parent if root.name == "VCTK-Corpus-0.92" else root
    microphone = (splits or ["mic1"])[0]
    datasets.VCTK_092(str(home), mic_id=microphone, download=download)
    files = sorted((home / "VCTK-Corpus-0.92" / "wav48_silence_trimmed").glob(f"*/*_{microphone}.flac"))
    return Found(train=[Recording(str(p), 0, 0, speaker=p.parent.name) for p in files])


def _ljspeech(datasets: Any, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    """LJ Speech 1.1: <root>/LJSpeech-1.1/wavs/*.wav; one reader, so some files are held out."""
    home = root.parent if root.name == "LJSpeech-1.1" else root
    datasets.LJSPEECH(home, download=download)
    files = sorted((home / "LJSpeech-1.1" / "wavs").glob("*.wav"))
    return Found(train=[Recording(str(p), 0, 0, speaker="ljspeech") for p in files])


def _musdb(datasets: Any, root: Path, splits: Sequence[str] | None, download: bool) -> Found:
    """MUSDB18-HQ: <root>/musdb18hq/train/<track>/mixture.wav, or other stems; with its own validation set."""
    home = root.parent if root.name == "musdb18hq" else root
    found = Found()
    for part, into in (("train", found.train), ("validation", found.valid)):
        for track in datasets.MUSDB_HQ(home, "train", split=part, download=download).names:
            for stem in splits or ["mixture"]:
                path = home / "musdb18hq" / "train" / track / f"{stem}.wav"
                if path.exists():
                    into.append(Recording(str(path), 0, 0, 2))
    return found


CORPORA: dict[str, Callable[[Any, Path, Sequence[str] | None, bool], Found]] = {
    "librispeech": _librispeech,
    "libritts": _libritts,
    "vctk": _vctk,
    "ljspeech": _ljspeech,
    "musdb": _musdb,
}


def corpus(
    name: str,
    root: str | os.PathLike[str] | None,
    splits: Sequence[str] | None = None,
    download: bool = False,
) -> Found:
    """Finds, and on request downloads, a corpus.

    Args:
        name: a key of `CORPORA`.
        root: folder that holds (or shall hold) the corpus, or the corpus's own folder.
        splits: parts to use: train-clean-100 ... for LibriSpeech and LibriTTS, mic1 or mic2 for VCTK, stems for
            MUSDB.
        download: get it where it is missing.

    Raises:
        ConfigError: unknown name or split, no root, not there, or torchaudio cannot be loaded.
    """
    if name not in CORPORA:
        raise ConfigError(f"unknown corpus {name!r}; known are {', '.join(CORPORA)}")
    if root is None:
        raise ConfigError(
            f"give data.root=/folder that holds {name} (or shall hold it, with data.download=true)"
        )
    if download:
        os.makedirs(root, exist_ok=True)
    datasets = assets.optional("torchaudio.datasets", "corpora")
    try:
        found = CORPORA[name](datasets, Path(root), splits, download)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(f"{name} is not complete at {root}: {error}") from None
    found.train, bad = probe_all(found.train)
    found.valid, worse = probe_all(found.valid)
    found.skipped = bad | worse
    if not found.train:
        raise ConfigError(f"{name} at {root} holds no sound file that can be read")
    if not found.valid:
        found.train, found.valid = hold_out(found.train)
    return found
