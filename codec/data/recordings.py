"""One recording of a corpus, and how to read a crop of it at the model's rate and channels."""

import json
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from codec import audio
from codec.errors import AudioError

# The resampler needs at most this much on each side of a crop to give what it gives in the whole file (to 1e-6).
_MARGIN = 0.025  # seconds


@dataclass(frozen=True, slots=True)
class Recording:
    """A sound file, or a member of a tar shard, and what is known about it.

    Attributes:
        path: of the file or of the shard.
        frames: samples per channel.
        sample_rate: hertz.
        channels: number of channels.
        speaker: who speaks, where known.
        split: train, valid or test, where known.
        member: name, offset and size in bytes inside the shard.
        text: what is said, where known.
        weight: how often it is heard in training beside others of its length.
    """

    path: str
    frames: int
    sample_rate: int
    channels: int = 1
    speaker: str | None = None
    split: str | None = None
    member: tuple[str, int, int] | None = None
    text: str | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What reports call it."""
        return audio.name_of(f"{self.path}!{self.member[0]}" if self.member else self.path)

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.sample_rate

    def length(self, rate: int) -> int:
        """Samples at another rate."""
        return self.frames * rate // self.sample_rate

    def open(self) -> audio.Reader:
        """Opens the sound file; raises `AudioError`."""
        if self.member is None:
            return audio.Reader(self.path)
        return audio.Reader(self.path, part=self.member[1:], name=self.name)

    def crop(self, start: int, length: int, rate: int, channels: int) -> audio.Audio:
        """Reads a crop, and only that, from the file.

        Args:
            start: first sample at `rate`; rounded down to where samples of file and model coincide (at most 20 ms for
                the usual rates).
            length: samples at `rate`.
            rate: of the model, hertz.
            channels: of the model.

        Returns:
            ``(channels, length)``, the same as that part of the whole file at the model's rate, to 1e-6; in Opus,
            whose decoder remembers all that it heard, to 5e-3.

        Raises:
            AudioError: the file is broken, of another rate than is known of it, or ends before the crop does.
        """
        up, down = self._ratio(rate)
        start -= start % up
        margin = math.ceil(_MARGIN * self.sample_rate / down) if up != down else 0
        before = min(margin, start // up)
        first = (start // up - before) * down
        with self.open() as reader:
            if reader.info.sample_rate != self.sample_rate:
                raise AudioError(
                    f"{self.name}: has {reader.info.sample_rate} Hz, and its manifest says {self.sample_rate}"
                )
            if first:
                reader.seek(first)
            wanted = before * down + math.ceil(length * down / up) + margin * down
            plan = audio.plan(self.sample_rate, reader.info.channels, rate, channels)
            convert = audio.ToModel(plan)
            samples = np.concatenate([convert.push(reader.read(wanted))[0], convert.flush()[0]], axis=1)
        samples = samples[:, before * up : before * up + length]
        if samples.shape[1] < length:
            raise AudioError(f"{self.name}: ends before its header says")
        return samples

    def aligned(self, start: int, rate: int) -> int:
        """The start that `crop` takes for `start`."""
        return start - start % self._ratio(rate)[0]

    def _ratio(self, rate: int) -> tuple[int, int]:
        common = math.gcd(rate, self.sample_rate)
        return rate // common, self.sample_rate // common


def probe(recording: Recording) -> Recording:
    """Fills in frames, rate and channels from the file, which is read through where its header does not know.

    Raises:
        AudioError: broken.
    """
    with recording.open() as reader:
        info, frames = reader.info, reader.count()
    return replace(recording, frames=frames, sample_rate=info.sample_rate, channels=info.channels)


def facts_of(row: object) -> dict[str, Any]:
    """What a row of a manifest, or the JSON beside a sound in a shard, says of it, checked; other keys are left out.

    Whole numbers may be written with a point, and speakers as numbers; null is as good as nothing.

    Raises:
        ValueError: not an object, or a value that cannot be; the message says which.
    """
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is wanted, not {_short(row)}")
    facts: dict[str, Any] = {}
    for key, most in (("frames", 1 << 48), ("sample_rate", audio.MAX_RATE), ("channels", audio.MAX_CHANNELS)):
        value = row.get(key)
        if value is None:
            continue
        whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not whole or not 0 < value <= most:
            raise ValueError(f"{key} is {_short(value)}, and should be a whole number from 1 to {most}")
        facts[key] = int(value)
    for key in ("seconds", "weight"):
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1 << 32:
            raise ValueError(f"{key} is {_short(value)}, and should be a positive number")
        facts[key] = value
    for key in ("path", "speaker", "split", "text"):
        value = row.get(key)
        if key == "speaker" and isinstance(value, int):
            value = str(value)
        if value is not None:
            if not isinstance(value, str):
                raise ValueError(f"{key} is {_short(value)}, and should be a text")
            facts[key] = value
    return facts


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:36]} ..."
