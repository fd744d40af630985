"""Reading sound files, whole or in blocks."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.errors import AudioError

Audio = NDArray[np.float32]
Source = str | os.PathLike[str] | BinaryIO

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".w64")
BLOCK = 1 << 16
_STANDARD = {"<stdin>": "standard input", "<stdout>": "standard output"}


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What the header of a sound file says."""

    sample_rate: int
    channels: int
    frames: int | None  # None where the header does not know (FLAC written to a pipe)
    format: str
    subtype: str

    @property
    def seconds(self) -> float | None:
        """Duration, where it is known."""
        return None if self.frames is None else self.frames / self.sample_rate


class SoundFile(soundfile.SoundFile):
    """Keeps soundfile from seeking after each read to where it is: slow in FLAC, fatal in unknown length."""

    def seekable(self) -> bool:
        return False


def name_of(source: Source | IO[bytes]) -> str:
    """What messages call a source or target."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    name = getattr(source, "name", None)
    return _STANDARD.get(name, name) if isinstance(name, str) else "sound file"


def _spool(stream: IO[bytes]) -> IO[bytes]:
    """Copies a pipe to a nameless temporary file (sound formats need seeking), which the caller closes."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, spool, 1 << 20)
    spool.seek(0)
    return spool


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the C library: mpg123 prints a line about the bit reservoir for almost every seek."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


class Reader:
    """Reads a sound file block by block.

    Args:
        source: path of a wav, flac, ogg, opus or mp3 file, or a binary file object; a pipe is copied to a
            temporary file first.

    Raises:
        AudioError: missing, unreadable, empty, not audio, or without samples; while reading, damaged or with
            samples that are NaN or infinite.
    """

    def __init__(self, source: Source) -> None:
        self.name = name_of(source)
        self.position = 0
        self._spool: IO[bytes] | None = None
        try:
            self._file = self._open(source)
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be read ({error.strerror or error})") from None
        except (soundfile.LibsndfileError, TypeError):
            self._close_spool()
            raise AudioError(
                f"{self.name}: not a sound file (wav, flac, ogg, opus and mp3 can be read)"
            ) from None
        frames = self._file.frames
        self.info = AudioInfo(
            self._file.samplerate,
            self._file.channels,
            frames if frames < 1 << 62 else None,
            self._file.format,
            self._file.subtype,
        )
        if frames == 0:
            self.close()
            raise AudioError(f"{self.name}: contains no samples")

    def _open(self, source: Source) -> SoundFile:
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                raise AudioError(f"{self.name}: is a folder, not a sound file")
            if stat.S_ISREG(status.st_mode):
                if status.st_size == 0:
                    raise AudioError(f"{self.name}: is empty")
                with open(source, "rb"):  # libsndfile does not say that it lacks permission
                    return SoundFile(os.fspath(source))
            with open(source, "rb") as stream:
                self._spool = _spool(stream)
        elif source.seekable():
            size = source.seek(0, os.SEEK_END)
            source.seek(0)
            if size == 0:
                raise AudioError(f"{self.name}: is empty")
            return SoundFile(source)
        else:
            self._spool = _spool(source)
        if os.fstat(self._spool.fileno()).st_size == 0:
            self._close_spool()
            raise AudioError(f"{self.name}: is empty")
        return SoundFile(self._spool.fileno(), closefd=False)

    def seek(self, frame: int) -> None:
        """Goes to a frame (a sample of each channel), counted from 0."""
        try:
            if self.info.format == "MPEG":
                with _quiet():
                    self._file.seek(frame)
                    self._file.read(1)
                    self._file.seek(frame)
            else:
                self._file.seek(frame)
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(f"{self.name}: cannot be read from sample {frame} ({reason(error)})") from None
        self.position = frame

    def read(self, frames: int) -> Audio:
        """Reads up to that many frames: ``(C, n)``, n smaller (down to 0) only at the end."""
        try:
            block: Audio = self._file.read(frames, dtype="float32", always_2d=True).T
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(f"{self.name}: damaged near sample {self.position} ({reason(error)})") from None
        finite = np.isfinite(block)
        if not finite.all():
            bad = self.position + int(np.argmin(finite.all(axis=0)))
            raise AudioError(f"{self.name}: sample {bad} is not a finite number")
        self.position += block.shape[1]
        return np.ascontiguousarray(block)

    def blocks(self, frames: int = BLOCK) -> Iterator[Audio]:
        """Yields the rest of the file in blocks ``(C, n)`` with 0 < n <= frames."""
        while (block := self.read(frames)).shape[1]:
            yield block

    def _close_spool(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def close(self) -> None:
        """Closes the file; also done at the end of a with block."""
        self._file.close()
        self._close_spool()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reason(error: Exception) -> str:
    """What libsndfile or the system says, without a full stop."""
    return str(getattr(error, "error_string", error)).strip().rstrip(".")


def probe(source: Source) -> AudioInfo:
    """Reads only the header of a sound file; raises `AudioError` as `Reader` does."""
    with Reader(source) as reader:
        return reader.info


def read(source: Source, start: int = 0, frames: int = -1) -> tuple[Audio, int]:
    """Reads a sound file or a part of it.

    Args:
        source: see `Reader`.
        start: first frame.
        frames: number of frames, -1 for the rest; fewer come back where the file ends.

    Returns:
        samples ``(C, N)`` float32 and the sample rate in hertz.

    Raises:
        AudioError: see `Reader`.
    """
    with Reader(source) as reader:
        if start:
            reader.seek(start)
        if frames >= 0:
            return reader.read(frames), reader.info.sample_rate
        blocks = list(reader.blocks(1 << 20))
        if not blocks:
            raise AudioError(f"{reader.name}: contains no samples" + (f" from {start} on" if start else ""))
        return np.concatenate(blocks, axis=1), reader.info.sample_rate
