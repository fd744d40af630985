"""Reading sound files, whole or in blocks: every way in goes through `Reader`, which knows what length is exact."""

import io
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

from codec.audio.containers import View, examine
from codec.audio.decoders import AvDecoder, NotSound, SndfileDecoder
from codec.errors import AudioError

Audio = NDArray[np.float32]
Source = str | os.PathLike[str] | BinaryIO

# what a search through folders takes for sound; any other name can be given by itself
SUFFIXES = (
    *(
        ".wav",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".aif",
        ".aiff",
        ".aifc",
        ".w64",
        ".rf64",
        ".caf",
        ".au",
    ),
    *(
        ".snd",
        ".sph",
        ".voc",
        ".mp2",
        ".m4a",
        ".m4b",
        ".mp4",
        ".aac",
        ".ac3",
        ".webm",
        ".mka",
        ".wma",
        ".amr",
    ),
    *(".wv", ".tta", ".ape", ".spx"),
)
BLOCK = 1 << 16
AT_ONCE = 1 << 22  # samples of all channels that are decoded in one go, whatever a header claims
MAX_RATE = 10_000_000  # Hz; buffers and filters are as long as the rate says
MAX_CHANNELS = 1024
FULL_SCALE_LIMIT = 100.0  # 40 dB above full scale: no sound, but integers kept as floats
_STANDARD = {"<stdin>": "standard input", "<stdout>": "standard output"}


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a sound file is."""

    sample_rate: int
    channels: int
    frames: int | None  # exact; None where only reading tells, see `Reader.count`
    format: str
    subtype: str

    @property
    def seconds(self) -> float | None:
        """Duration, where it is known."""
        return None if self.frames is None else self.frames / self.sample_rate


def name_of(source: Source | IO[bytes]) -> str:
    """What messages call a source or target; bytes that are no UTF-8 are shown as escapes."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    if not isinstance(name, str):
        return "sound file"
    return _STANDARD.get(name, name).encode(errors="backslashreplace").decode()


def check_format(name: str, sample_rate: int, channels: int) -> None:
    """Refuses what a header cannot mean, before anything is sized by it.

    Raises:
        AudioError: no such rate or number of channels.
    """
    if not (1 <= sample_rate <= MAX_RATE and 1 <= channels <= MAX_CHANNELS):
        raise AudioError(
            f"{name}: claims {sample_rate} Hz with {channels} channels; "
            f"at most {MAX_RATE} Hz and {MAX_CHANNELS} channels can be read"
        )


def check_samples(name: str, block: Audio, position: int) -> None:
    """Refuses samples `(C, n)` that are no sound; `position` is that of the first one.

    Raises:
        AudioError: NaN or infinite, or integers that somebody kept as floats.
    """
    good = np.abs(block) <= FULL_SCALE_LIMIT  # False for NaN
    if good.all():
        return
    first = int(np.argmin(good.all(axis=0)))
    bad = block[~good[:, first], first][0]
    what = (
        f"is {bad:g}, and full scale is 1.0: divide integers by their full scale first"
        if np.isfinite(bad)
        else "is not a finite number"
    )
    raise AudioError(f"{name}: sample {position + first} {what}")


class Reader:
    """Reads a sound file block by block; a file, a pipe and a file object give the same.

    Args:
        source: path of a sound file, or a binary file object; a pipe is copied to a temporary file first.
        part: offset and size in bytes, where the sound file is a part of another file.
        name: what messages call it; by default its path.

    Attributes:
        info: what the file is.
        position: the sample that comes next.

    Raises:
        AudioError: missing, unreadable, empty, not audio, or without samples; while reading, damaged, cut, or with
            samples that are no sound.
    """

    def __init__(
        self, source: Source, *, part: tuple[int, int] | None = None, name: str | None = None
    ) -> None:
        self.name = name_of(source) if name is None else name
        self.position = 0
        self._owned: IO[bytes] | None = None
        try:
            file = self._open(source)
            if part is not None:
                file = io.BufferedReader(View(file, *part))
            if file.seek(0, os.SEEK_END) == 0:
                raise AudioError(f"{self.name}: is empty")
            self._facts = examine(file)
            with self._reporting("cannot be read"):
                facts = self._facts
                self._decoder = self._decode(View(file, facts.start, facts.size, facts.head))
            found = self._decoder
            self.info = AudioInfo(
                found.sample_rate, found.channels, found.frames, found.format, found.subtype
            )
            check_format(self.name, found.sample_rate, found.channels)
            if found.frames == 0:
                raise AudioError(f"{self.name}: contains no samples")
            if self._facts.joined is not None:
                raise AudioError(
                    f"{self.name}: a second recording begins at byte {self._facts.joined}: make two files of it"
                )
        except OSError as error:
            self._close_owned()
            raise AudioError(f"{self.name}: cannot be read ({error.strerror or error})") from None
        except NotSound:
            self._close_owned()
            raise AudioError(
                f"{self.name}: not a sound file (wav, flac, ogg, opus and mp3 can be read)"
            ) from None
        except AudioError:
            self._close_owned()
            raise

    def _open(self, source: Source) -> IO[bytes]:
        """A seekable file with the bytes of the source."""
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                raise AudioError(f"{self.name}: is a folder, not a sound file")
            stream: IO[bytes] = open(source, "rb")  # noqa: SIM115
            if stat.S_ISREG(status.st_mode):
                self._owned = stream
                return stream
            with stream:
                self._owned = _spool(stream)
        elif source.seekable():
            return source
        else:
            self._owned = _spool(source)
        return self._owned

    def _decode(self, view: View) -> SndfileDecoder | AvDecoder:
        if view.peek(4) == b"\x89TOK":
            raise AudioError("not a sound file, but tokens: codec decode makes sound of them")
        if self._facts.sndfile:
            try:
                return SndfileDecoder(view, self._facts)
            except NotSound:  # perhaps a coding that only the others know
                pass
        if not self._facts.ffmpeg:
            raise NotSound("a broken header")
        return AvDecoder(view, self._facts)

    @property
    def notes(self) -> list[str]:
        """What was found to be missing so far, a sentence each."""
        notes = []
        if self._facts.cut is not None:
            notes.append(missing_samples(self._facts.cut))
        if self._facts.lost_pages:
            notes.append(f"{self._facts.lost_pages} pages of the Ogg stream are missing")
        if self._decoder.damaged:
            notes.append(f"{self._decoder.damaged} damaged packets of sound are left out")
        return notes

    def count(self) -> int:
        """The exact number of frames: where the header does not know, the file is read through.

        Raises:
            AudioError: damaged.
        """
        if self.info.frames is not None:
            return self.info.frames
        before = self.position
        with self._reporting("damaged"):
            frames = self._decoder.count()
            self._decoder.seek(before)
        return frames

    def seek(self, frame: int) -> None:
        """Goes to a frame (a sample of each channel), counted from 0, or to the end if there are not so many."""
        with self._reporting(f"cannot be read from sample {frame}"):
            self._decoder.seek(frame if self.info.frames is None else min(frame, self.info.frames))
        self.position = self._decoder.position

    def read(self, frames: int) -> Audio:
        """Reads up to that many frames: ``(C, n)``, n smaller (down to 0) only at the end."""
        most = max(1, AT_ONCE // self.info.channels)
        blocks: list[Audio] = []
        while frames > 0:
            with self._reporting(f"damaged near sample {self.position}"):
                block = self._decoder.read(min(frames, most)).T
            if not block.shape[1]:
                self._check_end()
                break
            check_samples(self.name, block, self.position)
            self.position += block.shape[1]
            frames -= block.shape[1]
            blocks.append(block)
        if not blocks:
            return np.zeros((self.info.channels, 0), np.float32)
        return np.ascontiguousarray(blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1))

    def _check_end(self) -> None:
        declared = self._decoder.declared if self.info.frames is None else self.info.frames
        if self.position < declared:
            raise AudioError(f"{self.name}: is cut: it ends after {self.position} of {declared} samples")

    def blocks(self, frames: int = BLOCK) -> Iterator[Audio]:
        """Yields the rest in blocks ``(C, n)`` with 0 < n <= frames, smaller where there are many channels."""
        frames = max(1, min(frames, AT_ONCE // self.info.channels))
        while (block := self.read(frames)).shape[1]:
            yield block

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (soundfile.LibsndfileError, OSError) as error:
            raise AudioError(f"{self.name}: {what} ({reason(error)})") from None
        except AudioError as error:
            raise AudioError(f"{self.name}: {error}") from None

    def _close_owned(self) -> None:
        if self._owned is not None:
            self._owned.close()

    def close(self) -> None:
        """Closes the file; also done at the end of a with block."""
        self._decoder.close()
        self._close_owned()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def missing_samples(share: float) -> str:
    """What is said of a file that has only this share of the samples that its header declares."""
    return f"only {100 * share:.1f}% of the samples that the header declares are there"


def _spool(stream: IO[bytes]) -> IO[bytes]:
    """Copies a pipe to a nameless temporary file (sound formats need seeking), which the caller closes."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, spool, 1 << 20)
    spool.seek(0)
    return spool


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
