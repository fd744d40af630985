"""Random crops for training, fixed clips for validation: an item depends on its number and the seed alone."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from codec import audio
from codec.data.recordings import Recording
from codec.errors import AudioError, ConfigError

Augment = Callable[[audio.Audio, int, Generator], audio.Audio]  # (C, N), rate, random numbers -> (C, N)

_TRIES = 8  # draws before the loudest of too quiet crops is taken
_BROKEN = 64  # unreadable files in a row before giving up


class Crop(TypedDict):
    """One crop: samples ``(C, N)``, where it came from, and the files that turned out unusable on the way."""

    audio: audio.Audio
    path: str
    start: int
    skipped: dict[str, str]


class Batch(TypedDict):
    """A batch: audio ``(B, C, N)`` float32, and for each row the file and the first sample at the model's rate."""

    audio: Tensor
    path: list[str]
    start: list[int]


class CropDataset(Dataset[Crop]):
    """Random crops, decoded straight from files of any length, one file per crop.

    Item n depends on n and the seed only: not on workers, processes, or what was read before. Files are drawn in
    proportion to their weight, by default their duration.

    Args:
        recordings: each at least one crop long.
        sample_rate: of the model, hertz.
        channels: of the model; mixed down or duplicated as encoding does.
        length: samples of a crop.
        weights: of the recordings; None for their durations.
        seed: of the random numbers.
        min_dbfs: crops whose level is below it are drawn again, a few times.
        augment: applied in order to each crop.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        *,
        sample_rate: int,
        channels: int,
        length: int,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        min_dbfs: float = -60.0,
        augment: Sequence[Augment] = (),
    ) -> None:
        if not recordings:
            raise ConfigError("no recording is left to train on")
        self.recordings = list(recordings)
        self.sample_rate, self.channels, self.length = sample_rate, channels, length
        self.seed, self.augment = seed, tuple(augment)
        self._floor = 10 ** (min_dbfs / 20)
        shares = np.cumsum(
            weights if weights is not None else [r.seconds for r in recordings], dtype=np.float64
        )
        self._edges = shares / shares[-1]

    def __getitem__(self, number: int) -> Crop:
        """Item of any number >= 0; raises `AudioError` when file after file cannot be read."""
        random = np.random.default_rng([self.seed, number])
        skipped: dict[str, str] = {}
        best: tuple[float, audio.Audio, Recording, int] | None = None
        tries = broken = 0
        while tries < _TRIES:
            recording = self.recordings[int(np.searchsorted(self._edges, random.random(), side="right"))]
            last = recording.length(self.sample_rate) - self.length
            start = recording.aligned(int(random.integers(0, max(0, last), endpoint=True)), self.sample_rate)
            try:
                samples = recording.crop(start, self.length, self.sample_rate, self.channels)
            except AudioError as error:
                skipped[recording.name] = str(error).removeprefix(f"{recording.name}: ")
                broken += 1
                if broken == _BROKEN:
                    raise AudioError(
                        f"{_BROKEN} files in a row cannot be read; the last is {error}"
                    ) from None
                continue
            tries += 1
            level = float(np.sqrt(np.mean(np.square(samples))))
            if best is None or level > best[0]:
                best = (level, samples, recording, start)
            if level >= self._floor:
                break
        assert best is not None
        _, samples, recording, start = best
        for change in self.augment:
            samples = change(samples, self.sample_rate, random)
        return Crop(audio=samples, path=recording.name, start=start, skipped=skipped)


class ClipDataset(Dataset[Crop]):
    """The same clips each time, read once: the middle of each recording, or the whole of it.

    Args:
        recordings: at least as long as the clips; unreadable ones go to `skipped`.
        sample_rate: of the model, hertz.
        channels: of the model.
        length: samples of a clip; None for whole recordings, which then go into batches of one.
    """

    def __init__(
        self, recordings: Sequence[Recording], *, sample_rate: int, channels: int, length: int | None
    ) -> None:
        self._clips: list[Crop] = []
        self.skipped: dict[str, str] = {}
        for recording in recordings:
            whole = recording.length(sample_rate)
            start = recording.aligned((whole - length) // 2 if length else 0, sample_rate)
            try:
                samples = recording.crop(start, length or whole, sample_rate, channels)
            except AudioError as error:
                self.skipped[recording.name] = str(error).removeprefix(f"{recording.name}: ")
                continue
            self._clips.append(Crop(audio=samples, path=recording.name, start=start, skipped={}))
        if not self._clips:
            raise ConfigError("no recording is left to validate on")

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, number: int) -> Crop:
        return self._clips[number]


def collate(crops: Sequence[Crop]) -> tuple[Batch, dict[str, str]]:
    """A batch of crops of one length, and the skipped files of all of them."""
    skipped: dict[str, str] = {}
    for crop in crops:
        skipped |= crop["skipped"]
    samples = torch.from_numpy(np.stack([crop["audio"] for crop in crops]))
    paths, starts = [crop["path"] for crop in crops], [crop["start"] for crop in crops]
    return Batch(audio=samples, path=paths, start=starts), skipped


def collate_batch(crops: Sequence[Crop]) -> Batch:
    """A batch of crops of one length."""
    return collate(crops)[0]
