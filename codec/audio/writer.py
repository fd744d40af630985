"""Writing sound files, whole or in blocks, so that a failure leaves nothing half-written behind."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from codec.audio.decoders import SndFile
from codec.audio.reader import BLOCK, Audio, Reader, Source, name_of, reason
from codec.errors import AudioError
from codec.system import commit_part, create_part

_WRITE = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")}
_FULL_SCALE = {"PCM_16": 2**15, "PCM_24": 2**23}
_WIDTH = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}


class Writer:
    """Writes a sound file block by block; the target appears, or is replaced, only when all went well.

    Args:
        target: path (an existing file is replaced), or a binary file object, pipes too.
        sample_rate: hertz.
        channels: number of channels.
        format: wav, flac or ogg; by default what the suffix of the path says, else wav.
        subtype: PCM_16 (the default), PCM_24 or, in wav, FLOAT; ogg is always VORBIS.

    Raises:
        AudioError: unknown format, a rate or channel count that it cannot hold, folder missing, not writable,
            disk full.
    """

    def __init__(
        self,
        target: Source,
        sample_rate: int,
        channels: int,
        *,
        format: str | None = None,
        subtype: str | None = None,
    ) -> None:
        self.name = name_of(target)
        path = os.fspath(target) if isinstance(target, str | os.PathLike) else None
        format = (format or (path and Path(path).suffix.lstrip(".")) or "wav").lower()
        if format not in _WRITE:
            raise AudioError(
                f"{self.name}: cannot write {format!r} files; choose one of {', '.join(sorted(_WRITE))}"
            )
        self._format, default = _WRITE[format]
        self._subtype = subtype or default
        self._channels = channels
        self._frames = 0
        self._stream: BinaryIO | None = None
        self._path = self._device = None
        if not isinstance(target, str | os.PathLike):
            self._stream = target
        elif os.path.isdir(target):
            raise AudioError(f"{self.name}: is a folder; give a file name")
        elif os.path.exists(target) and not os.path.isfile(target):
            self._device = path  # a device or a named pipe must not be replaced by a file
        else:
            self._path = path
        try:
            if self._path:
                self._temporary = create_part(self._path)
            else:
                self._temporary = create_part(Path(tempfile.gettempdir(), "audio"))
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be written ({error.strerror})") from None
        try:
            self._file = SndFile(
                os.fsencode(self._temporary), "w", sample_rate, channels, self._subtype, format=self._format
            )
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            self._temporary.unlink()
            kind = f"{format} with {self._subtype}, {sample_rate} Hz and {channels} channels"
            raise AudioError(f"{self.name}: cannot write {kind} ({reason(error)})") from None

    def write(self, audio: Audio) -> None:
        """Appends a block ``(C, n)``; samples outside [-1, 1] are clipped unless the file holds floats."""
        if audio.ndim != 2 or audio.shape[0] != self._channels:
            raise AudioError(
                f"{self.name}: audio of shape {audio.shape} does not fit a file of {self._channels} channels"
            )
        # in pieces, because libsndfile's Vorbis encoder overflows its stack on long blocks
        for start in range(0, audio.shape[1], BLOCK):
            block = audio[:, start : start + BLOCK].T
            if not np.isfinite(block).all():
                raise AudioError(f"{self.name}: refused to write samples that are not finite numbers")
            try:
                self._file.write(self._quantize(block))
            except (soundfile.LibsndfileError, OSError, AssertionError) as error:
                raise AudioError(
                    f"{self.name}: cannot be written; is the disk full? ({reason(error)})"
                ) from None
            self._frames += len(block)
        if self._format == "WAV" and self._frames * self._channels * _WIDTH[self._subtype] > 2**32 - 4096:
            raise AudioError(f"{self.name}: a wav file cannot hold more than 4 GiB; choose flac")

    def _quantize(self, block: Audio) -> NDArray[np.float32] | NDArray[np.int16] | NDArray[np.int32]:
        if self._subtype in _FULL_SCALE:
            # exact for samples that came from integers, unlike libsndfile's own scaling
            scale = _FULL_SCALE[self._subtype]
            integers = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)
            return integers.astype(np.int16) if scale == 2**15 else integers * 256
        return np.asarray(block if self._subtype == "FLOAT" else np.clip(block, -1, 1), np.float32)

    def close(self) -> None:
        """Finishes the file and puts it in its place."""
        try:
            self._file.close()
            if self._frames:
                self._verify()
            if self._path:
                commit_part(self._temporary, self._path)
                return
            with open(self._temporary, "rb") as finished:
                if self._device:
                    with open(self._device, "wb") as device:
                        shutil.copyfileobj(finished, device, 1 << 20)
                elif self._stream:
                    shutil.copyfileobj(finished, self._stream, 1 << 20)
                    self._stream.flush()
        except OSError as error:
            raise AudioError(f"{self.name}: cannot be written ({error.strerror})") from None
        finally:
            self.abort()

    def _verify(self) -> None:
        """Reads the last sample back, because libsndfile does not tell when a disk fills up at the end."""
        try:
            with Reader(self._temporary) as reader:
                reader.seek(self._frames - 1)
                whole = reader.read(2).shape[1] == 1
        except AudioError:
            whole = False
        if not whole:
            raise AudioError(f"{self.name}: could not be written completely; is the disk full?")

    def abort(self) -> None:
        """Gives up: nothing is left behind, an older file stays as it was."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write(
    target: Source, audio: Audio, sample_rate: int, *, format: str | None = None, subtype: str | None = None
) -> None:
    """Writes samples ``(C, N)`` to a sound file in one go; see `Writer`."""
    with Writer(target, sample_rate, audio.shape[0], format=format, subtype=subtype) as writer:
        writer.write(audio)
