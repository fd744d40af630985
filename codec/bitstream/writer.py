"""Writes a .tok file or stream, chunk by chunk; what was written so far can be read if the writer dies."""

import math
from dataclasses import replace
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from codec.bitstream.chunk import MAX_GAP, ChunkCoder, End, Gap
from codec.bitstream.header import Header
from codec.bitstream.prior import Prior
from codec.bitstream.records import END, HEADER, INDEX, put_record
from codec.bitstream.seek import index_to_bytes
from codec.errors import TokError

CHUNK_SECONDS = 8.0
# where each chunk learns its own tables; speech codes at 6 kbps then shrank by 4% in 6 s, 6% in 20 s, 7% in 60 s
LEARNING_SECONDS = 30.0
INDEX_FROM = 16  # chunks: a shorter file is as quickly walked through as looked up
INDEX_LONGEST = 4096  # entries; beyond it every second one goes, so that a writer's memory stays bounded


def default_frames(header: Header, seconds: float) -> int:
    """Frames per chunk where the caller does not say: about that many seconds.

    A file of known length is cut into equal parts of 3/4 to 3/2 of it, so that from 10 s on its overhead stays
    below one percent at 6 kbps: a short last chunk would cost as many bytes as a long one.
    """
    if header.num_samples:
        total = header.num_samples / header.sample_rate
        seconds = total / max(1, total // (0.75 * seconds))
    # two frames more, for what the rounding of a resampler or a codec's delay may add at the end
    return math.ceil(seconds * header.frame_rate) + 2


class TokWriter:
    """Writes codes to any binary file, pipes and sockets included.

    The header goes out at once, every chunk as soon as it is full, and each is flushed. Leaving the ``with``
    block writes the last chunk, the seek index and the end record; leaving it by an exception writes nothing
    more, so that nobody takes the file for complete. The file itself is the caller's to close.

    Args:
        file: anything with ``write(bytes)``.
        header: see `Header`.
        frames_per_chunk: frames under one sync mark and CRC; None: about 8 s, or 30 s where each chunk has to
            learn its own tables. A live stream takes 1.
        entropy: code each chunk with frequency tables where that is smaller than the packed bits.
        prior: the model's entropy tables; without them each chunk learns its own.
        index: write the seek index, and a second copy of the header, into files of 16 chunks or more.

    Attributes:
        num_samples: the header's; a recorder sets it before it closes.
        num_frames: frames written so far, in whole chunks.
        bytes_written: so far.
    """

    def __init__(
        self,
        file: BinaryIO,
        header: Header,
        *,
        frames_per_chunk: int | None = None,
        entropy: bool = False,
        prior: Prior | None = None,
        index: bool = True,
    ) -> None:
        self._coder = ChunkCoder(header, entropy, prior)
        most = self._coder.most_frames
        if frames_per_chunk is None:
            seconds = LEARNING_SECONDS if self._coder.compress and prior is None else CHUNK_SECONDS
            frames_per_chunk = min(default_frames(header, seconds), most)
        self._per_chunk = frames_per_chunk
        if not 1 <= self._per_chunk <= most:
            raise TokError(f"a chunk of these codes has 1 to {most} frames, not {self._per_chunk}")
        self.header = header
        self.num_samples = header.num_samples
        self.num_frames = 0
        self.bytes_written = 0
        self._file = file
        self._pending: list[npt.NDArray[np.integer]] = []
        self._pending_frames = 0
        self._with_index = index
        self._index: list[tuple[int, int]] = []
        self._stride = 1
        self._chunks = 0
        self._closed = False
        self._put(header.to_bytes())

    @property
    def saved_bytes(self) -> int:
        """Bytes that entropy coding saved so far."""
        return self._coder.saved_bytes

    def write(self, codes: npt.NDArray[np.integer]) -> None:
        """Adds codes (K, t), t >= 0; what fills no chunk waits for more.

        Raises:
            TokError: not (K, t) integers, or a code outside its codebook.
        """
        if self._closed:
            raise TokError("this .tok file is already closed")
        codes = np.array(codes)  # a copy: the caller may reuse its buffer
        self._coder.check(codes)
        while codes.shape[1]:
            part = codes[:, : self._per_chunk - self._pending_frames]
            codes = codes[:, part.shape[1] :]
            self._pending.append(part)
            self._pending_frames += part.shape[1]
            if self._pending_frames == self._per_chunk:
                self.flush()

    def write_gap(self, frames: int) -> None:
        """Says that ``frames`` frames are lost here; a reader yields a `Gap` for them."""
        self.flush()
        if not 1 <= frames <= MAX_GAP:
            raise TokError(f"a gap has 1 to {MAX_GAP} frames, not {frames}")
        self.put_chunk(Gap(self.num_frames, frames, self.bytes_written).to_record(), frames)

    def flush(self) -> None:
        """Ends the chunk that is being filled, so that everything written so far is in the file."""
        if self._pending:
            codes = np.concatenate(self._pending, axis=1)
            self._pending, self._pending_frames = [], 0
            self.put_chunk(self._coder.to_record(self.num_frames, codes), codes.shape[1])

    def put_chunk(self, record: bytes, frames: int) -> None:
        """Writes a whole record that stands for the next ``frames`` frames."""
        if self._chunks % self._stride == 0:
            self._index.append((self.num_frames, self.bytes_written))
            if len(self._index) > INDEX_LONGEST:
                self._index, self._stride = self._index[::2], self._stride * 2
        self._put(record)
        self.num_frames += frames
        self._chunks += 1

    def close(self) -> None:
        """Writes what is left, the index and the end record; a second call does nothing.

        Raises:
            TokError: `num_samples` is more than the frames that were written can stand for.
        """
        if self._closed:
            return
        self._closed = True
        self.flush()
        if self.num_samples is not None and self.num_samples > self.header.most_samples(self.num_frames):
            raise TokError(f"{self.num_frames} frames are too few for a source of {self.num_samples} samples")
        distance = 0
        if self._with_index and self._chunks >= INDEX_FROM:
            self._put(put_record(HEADER, replace(self.header, num_samples=self.num_samples).to_bytes()))
            distance = self._put(put_record(INDEX, index_to_bytes(self._index)))
        self._put(put_record(END, End(self.num_frames, self.num_samples, distance).to_bytes()))

    def __enter__(self) -> "TokWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _put(self, data: bytes) -> int:
        """Writes all of ``data`` (an unbuffered pipe may take less at a time) and returns its length."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._file.flush()
        self.bytes_written += len(data)
        return len(data)
