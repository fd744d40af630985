"""Sound that arrives and leaves through pipes as it is made: WAV without an end, or bare 16-bit samples."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from codec.audio.reader import Audio
from codec.errors import AudioError

CHUNK = 1 << 16  # bytes read at most at a time
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_ENDLESS = 0xFFFFFFFF  # what a WAV header says where the length is not known


class PcmReader:
    """Samples from a pipe, as soon as they are there.

    Args:
        stream: WAV (16, 24 or 32 bit, or float), which its first bytes tell; else bare 16-bit little-endian
            samples, channel after channel.
        sample_rate: of bare samples, in hertz.
        channels: of bare samples.

    Raises:
        AudioError: a WAV header that is cut or asks for a coding that is not known; while reading, samples that are
            no finite numbers.
    """

    def __init__(self, stream: BinaryIO, *, sample_rate: int, channels: int) -> None:
        self._stream = stream
        self._read1 = getattr(stream, "read1", stream.read)
        self.sample_rate, self.channels = sample_rate, channels
        self._width, self._float = 2, False
        self._left: int | None = None
        self.position = 0
        start = stream.read(12)
        self._rest = start
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            self._rest = b""
            self._read_header()
        if not 1 <= self.sample_rate < 1 << 31 or not 1 <= self.channels < 1 << 16:
            raise AudioError(f"standard input: cannot be {self.sample_rate} Hz with {self.channels} channels")

    def _read_header(self) -> None:
        known = False
        while True:
            kind, size = struct.unpack("<4sI", self._exactly(8))
            if kind == b"data":
                break
            body = self._exactly(size + size % 2)
            if kind == b"fmt ":
                if size < 16:
                    raise AudioError("standard input: the WAV header is damaged")
                tag, self.channels, self.sample_rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
                if tag == _EXTENSIBLE and size >= 26:
                    (tag,) = struct.unpack("<H", body[24:26])
                self._width, self._float, known = bits // 8, tag == _FLOAT, True
                if (tag, bits) not in {(_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32)}:
                    raise AudioError(f"standard input: WAV with coding {tag} and {bits} bits cannot be read")
        if not known:
            raise AudioError("standard input: the WAV header does not say what the samples are")
        # recorders that do not know the end write 0 or a length near the limit
        self._left = size if 0 < size < 0x7FFF0000 else None

    def _exactly(self, size: int) -> bytes:
        if size > CHUNK:
            raise AudioError("standard input: the WAV header is damaged")
        data = self._stream.read(size)
        if len(data) < size:
            raise AudioError("standard input: ends inside the WAV header")
        return data

    def __iter__(self) -> Iterator[Audio]:
        """Yields samples `(C, n)`, n > 0, as they come, until the stream ends; half a sample at the end is dropped."""
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

    def _samples(self, data: bytes) -> Audio:
        if self._float:
            samples = np.frombuffer(data, "<f4").astype(np.float32)
            if not np.isfinite(samples).all():
                raise AudioError(f"standard input: not a finite number after sample {self.position}")
        elif self._width == 3:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            samples = (wide.view("<i4")[:, 0] / 2.0**31).astype(np.float32)
        else:
            samples = (np.frombuffer(data, f"<i{self._width}") / 2.0 ** (8 * self._width - 1)).astype(
                np.float32
            )
        audio = np.ascontiguousarray(samples.reshape(-1, self.channels).T)
        self.position += audio.shape[1]
        return audio


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
