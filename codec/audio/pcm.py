"""Sound that arrives and leaves through pipes as it is made: WAV without an end, or bare 16-bit samples."""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np

from codec.audio.containers import PLACEHOLDER, SNIFF_BYTES, is_sound_file, may_be_frames
from codec.audio.reader import Audio, Reader, check_format, check_samples, missing_samples
from codec.errors import AudioError

CHUNK = 1 << 16  # bytes read at most at a time
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_LIVE = {(_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)}  # (coding, bits) that need no decoder
MAX_CHUNK = 1 << 24  # bytes of a chunk before the samples: pictures are among them
_ENDLESS = 0xFFFFFFFF  # what a WAV header says where the length is not known


class PcmReader:
    """Samples from a pipe, as soon as they are there.

    Args:
        stream: WAV, or any other sound file, which its first bytes tell; else bare 16-bit little-endian samples,
            channel after channel. What is neither 16, 24 or 32 bit nor float is read to its end first.
        sample_rate: of bare samples, in hertz.
        channels: of bare samples.

    Attributes:
        position: samples given so far.
        notes: what was found to be missing, a sentence each.

    Raises:
        AudioError: a WAV header that is cut or damaged, a sound file that cannot be read; while reading, samples that
            are no sound, or a second recording behind the first.
    """

    def __init__(self, stream: BinaryIO, *, sample_rate: int, channels: int) -> None:
        self._stream = stream
        self._read1 = getattr(stream, "read1", stream.read)
        self.sample_rate, self.channels = sample_rate, channels
        self.position = 0
        self.notes: list[str] = []
        self._width, self._float = 2, False
        self._size = self._left = None
        self._file: Reader | None = None
        start = self._stream.read(12)
        if may_be_frames(start):
            start += self._stream.read(SNIFF_BYTES)
        self._rest = start
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            self._read_header()
        elif is_sound_file(start):
            self._read_to_the_end(start)
        check_format("standard input", self.sample_rate, self.channels)

    def _read_header(self) -> None:
        known = False
        while True:
            head = self._exactly(8)
            kind, size = struct.unpack("<4sI", head)
            if kind == b"data":
                break
            if size > MAX_CHUNK or (kind == b"fmt " and not 16 <= size <= CHUNK):
                raise AudioError("standard input: the WAV header is damaged")
            body = self._exactly(size + size % 2)
            self._rest += head + body
            if kind == b"fmt ":
                tag, self.channels, self.sample_rate, _, align, bits = struct.unpack("<HHIIHH", body[:16])
                if tag == _EXTENSIBLE and size >= 26:
                    (tag,) = struct.unpack("<H", body[24:26])
                self._width, self._float, known = bits // 8, tag == _FLOAT, True
                if (tag, bits) not in _LIVE or align != self.channels * self._width:
                    return self._read_to_the_end(self._rest)
        if not known:
            raise AudioError("standard input: the WAV header does not say what the samples are")
        self._rest = b""
        # recorders that do not know the end write 0 or a length near the limit
        self._size = self._left = size if 0 < size < PLACEHOLDER else None

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise AudioError("standard input: ends inside the WAV header")
        return data

    def _read_to_the_end(self, start: bytes) -> None:
        self._file = Reader(cast(BinaryIO, _Rest(start, self._stream)))
        self.sample_rate, self.channels = self._file.info.sample_rate, self._file.info.channels

    def __iter__(self) -> Iterator[Audio]:
        """Yields samples `(C, n)`, n > 0, as they come, until the stream ends; half a sample at the end is dropped."""
        if self._file is not None:
            with self._file as file:
                for block in file.blocks():
                    self.position = file.position
                    yield block
                self.notes = file.notes
            return
        frame = self._width * self.channels
        ended = False
        while not ended:
            wanted = CHUNK if self._left is None else min(CHUNK, self._left)
            data = self._read1(wanted) if wanted else b""
            ended = not data
            if self._left is not None:
                self._left -= len(data)
            data = self._rest + data
            whole = len(data) // frame * frame
            self._rest = data[whole:]
            if whole:
                yield self._samples(data[:whole])
        self._check_end()

    def _check_end(self) -> None:
        if not self._size:
            return
        if self._left:
            self.notes = [missing_samples(1 - self._left / self._size)]
        elif self._stream.read(4 + self._size % 2)[self._size % 2 :] in (b"RIFF", b"RF64"):
            raise AudioError(f"standard input: a second recording begins after sample {self.position}")

    def _samples(self, data: bytes) -> Audio:
        if self._float:
            samples = np.frombuffer(data, "<f4").astype(np.float32)
        elif self._width == 3:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            samples = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
        else:
            samples = (np.frombuffer(data, f"<i{self._width}") / 2.0 ** (8 * self._width - 1)).astype(
                np.float32
            )
        audio = np.ascontiguousarray(samples.reshape(-1, self.channels).T)
        check_samples("standard input", audio, self.position)
        self.position += audio.shape[1]
        return audio


class _Rest(io.RawIOBase):
    """A pipe whose first bytes were read already."""

    name = "<stdin>"

    def __init__(self, start: bytes, stream: BinaryIO) -> None:
        self._start, self._stream = start, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._start[: len(buffer)] or self._stream.read(len(buffer))
        self._start = self._start[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class PcmWriter:
    """16-bit samples into a pipe, flushed block by block.

    Args:
        stream: where they go.
        sample_rate: in hertz.
        channels: of the sound.
        wav: begin with a WAV header, which players need; False gives bare samples.
    """

    def __init__(self, stream: BinaryIO, sample_rate: int, channels: int, *, wav: bool = True) -> None:
        self._stream = stream
        if wav:
            frame = 2 * channels
            fmt = struct.pack("<HHIIHH", _PCM, channels, sample_rate, frame * sample_rate, frame, 16)
            stream.write(
                b"RIFF" + struct.pack("<I", _ENDLESS) + b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
            )
            stream.write(b"data" + struct.pack("<I", _ENDLESS))
            stream.flush()

    def write(self, audio: Audio) -> None:
        """Appends samples `(C, n)`; those outside [-1, 1] are clipped."""
        if audio.shape[1]:
            integers = np.clip(np.rint(audio.T.astype(np.float64) * 2**15), -(2**15), 2**15 - 1)
            self._stream.write(integers.astype("<i2").tobytes())
            self._stream.flush()
