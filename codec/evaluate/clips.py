"""The recordings of an evaluation: found in a folder or a manifest, brought to one rate and one channel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codec import audio
from codec.data import sources
from codec.data.recordings import Recording
from codec.errors import ConfigError
from codec.metrics.base import Signal


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording.

    Attributes:
        name: its place within the data, unique.
        path: of the sound file.
        sample_rate: of the file, in hertz.
        channels: of the file.
        size: of the file in bytes; with `stamp` it shows that a file has changed.
        stamp: when the file was last changed, in nanoseconds.
        text: what is said, if the manifest has it.
    """

    name: str
    path: str
    sample_rate: int
    channels: int
    size: int
    stamp: int
    text: str | None = None

    def note(self, rate: int) -> str:
        """What is done to it before any system gets it; empty for nothing."""
        steps = [f"{self.channels} channels mixed to one"] if self.channels > 1 else []
        if self.sample_rate != rate:
            steps.append(f"{self.sample_rate} Hz resampled to {rate}")
        return ", ".join(steps)

    def load(self, rate: int, seconds: float | None) -> Signal:
        """The reference `(N,)` at `rate`, at most its first `seconds`.

        Raises:
            AudioError: the file cannot be read.
        """
        frames = -1 if seconds is None else round(seconds * self.sample_rate)
        samples, sample_rate = audio.read(self.path, frames=frames)
        return np.ascontiguousarray(audio.to_model(samples, sample_rate, rate, 1)[0][0, 0])


def find_clips(
    data: str | os.PathLike[str], filters: Mapping[str, object] | None = None, limit: int | None = None
) -> tuple[list[Clip], dict[str, str]]:
    """The clips of a folder, sound file or `.jsonl` manifest, and those that cannot be read with the reason.

    Args:
        data: where they are.
        filters: values that a manifest's rows must have.
        limit: take so many, spread evenly over the list.

    Raises:
        ConfigError: no such place, or nothing there can be used.
    """
    path = Path(data)
    if path.suffix == ".jsonl":
        recordings, skipped = sources.manifest(path, filters)
        if not recordings:
            raise ConfigError(
                f"{path}: no recording can be used" + (" with these filters" if filters else "")
            )
    else:
        found = sources.find(path, filters)
        recordings, skipped = found.train + found.valid, found.skipped
    packed = [recording for recording in recordings if recording.member]
    skipped |= dict.fromkeys((r.name for r in packed), "lies in a shard: unpack it for an evaluation")
    plain = [recording for recording in recordings if not recording.member]
    if not plain:
        raise ConfigError(f"{path}: holds only shards, and an evaluation needs sound files: unpack them")
    if limit is not None and limit < len(plain):
        plain = [plain[index * len(plain) // limit] for index in range(limit)]
    return _clips(plain), skipped


def _clips(recordings: Sequence[Recording]) -> list[Clip]:
    base = os.path.commonpath([os.path.dirname(os.path.abspath(r.path)) for r in recordings])
    clips = []
    for recording in recordings:
        status = os.stat(recording.path)
        name = os.path.relpath(os.path.abspath(recording.path), base)
        clips.append(
            Clip(
                name,
                recording.path,
                recording.sample_rate,
                recording.channels,
                status.st_size,
                status.st_mtime_ns,
                recording.text,
            )
        )
    return clips


def digest(*parts: object) -> str:
    """A short key of what a result depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
