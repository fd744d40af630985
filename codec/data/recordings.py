"""One recording of a corpus, and how to read a crop of it at the model's rate and channels."""

import io
import math
import os
from dataclasses import dataclass, replace
from typing import Self

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
    """

    path: str
    frames: int
    sample_rate: int
    channels: int = 1
    speaker: str | None = None
    split: str | None = None
    member: tuple[str, int, int] | None = None
    text: str | None = None

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.path}!{self.member[0]}" if self.member else self.path

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
        name, offset, size = self.member
        try:
            return audio.Reader(io.BufferedReader(_Slice(self.path, name, offset, size)))
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be read ({error.strerror})") from None

    def crop(self, start: int, length: int, rate: int, channels: int) -> audio.Audio:
        """Reads a crop, and only that, from the file.

        Args:
            start: first sample at `rate`; rounded down to where samples of file and model coincide (at most 20 ms for
                the usual rates).
            length: samples at `rate`.
            rate: of the model, hertz.
            channels: of the model.

        Returns:
            ``(channels, length)``, the same as that part of the whole file at the model's rate, to 1e-6.

        Raises:
            AudioError: the file is broken or ends before the crop does.
        """
        up, down = self._ratio(rate)
        start -= start % up
        margin = math.ceil(_MARGIN * self.sample_rate / down) if up != down else 0
        before = min(margin, start // up)
        first = (start // up - before) * down
        with self.open() as reader:
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
    """Fills in frames, rate and channels from the file's header.

    Raises:
        AudioError: broken, or of unknown length.
    """
    with recording.open() as reader:
        info = reader.info
    if info.frames is None:
        raise AudioError(f"{recording.name}: does not say how long it is")
    return replace(recording, frames=info.frames, sample_rate=info.sample_rate, channels=info.channels)


class _Slice(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path: str, name: str, offset: int, size: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.name = f"{path}!{name}"
        self._offset, self._size, self._at = offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        self._file.seek(self._offset + self._at)
        data = self._file.read(min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def __enter__(self) -> Self:
        return self
