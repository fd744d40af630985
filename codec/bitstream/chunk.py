"""The bodies of the records: chunks of codes, the seek index and the end."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.bitstream.header import Header
from codec.bitstream.pack import Codes, code_bits, pack, packed_size, unpack
from codec.bitstream.records import LOST, MAX_BODY, RAW, get_varint, put_record, put_varint
from codec.errors import TokError

MAX_SYMBOLS = 1 << 19  # codes in one chunk, so that no chunk asks its reader for much memory
MAX_FRAME = 1 << 48
MAX_GAP = 1 << 24  # frames; a larger jump is damage or malice, not a loss worth filling


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that are lost: ``frames`` of them from frame ``start`` on, noticed at byte ``offset``."""

    start: int
    frames: int
    offset: int

    def to_record(self) -> bytes:
        """The whole record by which a writer says that these frames are lost."""
        return put_record(LOST, put_varint(self.start) + put_varint(self.frames))


@dataclass(frozen=True, slots=True)
class End:
    """The end record: frames in all, samples of the source if known, bytes back to the index (0: none)."""

    frames: int
    samples: int | None
    index_distance: int

    def to_bytes(self) -> bytes:
        """The body of the record."""
        samples = 0 if self.samples is None else self.samples + 1
        return put_varint(self.frames) + put_varint(samples) + put_varint(self.index_distance)


def parse_end(body: bytes, offset: int) -> End:
    """The inverse of `End.to_bytes`; ``offset`` is only for the error's sentence."""
    try:
        frames, at = get_varint(body, 0)
        samples, at = get_varint(body, at)
        distance, _ = get_varint(body, at)
    except IndexError:
        raise TokError("the end record is too short", offset) from None
    return End(frames, samples - 1 if samples else None, distance)


def parse_gap(body: bytes, offset: int) -> Gap:
    """The inverse of `Gap.to_record`, for the record at byte ``offset``."""
    start, frames, _ = chunk_span(body, offset)
    if frames > MAX_GAP:
        raise TokError(f"a gap claims {frames} frames, more than the format allows", offset)
    return Gap(start, frames, offset)


class ChunkCoder:
    """Turns codes into chunks and back, for one header."""

    def __init__(self, header: Header, entropy: bool = False) -> None:
        self.entropy = entropy
        self.sizes = header.codebook_sizes
        self.bits = code_bits(self.sizes)
        self.limits = np.array(self.sizes, np.int64)[:, None]
        # what both the limit on symbols and the limit on a record's body allow
        self.most_frames = min(MAX_SYMBOLS // len(self.sizes), (MAX_BODY - 32) * 8 // sum(self.bits))

    def check(self, codes: npt.NDArray[np.integer]) -> None:
        """Raises TokError unless ``codes`` are (K, t) integers, each inside its book."""
        if codes.ndim != 2 or len(codes) != len(self.sizes) or codes.dtype.kind not in "iu":
            raise TokError(f"codes must be ({len(self.sizes)}, t) integers, not {codes.dtype} {codes.shape}")
        wrong = (codes < 0) | (codes >= self.limits)
        if wrong.any():
            row = int(wrong.any(axis=1).argmax())
            raise TokError(f"a code of book {row} is outside 0..{self.sizes[row] - 1}")

    def to_record(self, first: int, codes: npt.NDArray[np.integer]) -> bytes:
        """The whole record of checked codes (K, t) that start at frame ``first``."""
        body = put_varint(first) + put_varint(codes.shape[1]) + pack(codes, self.bits)
        return put_record(RAW, body)

    def parse(self, kind: int, body: bytes, offset: int) -> tuple[int, Codes]:
        """The inverse of `to_record`: (first frame, codes (K, t)).

        Raises:
            TokError: the body is not what a writer makes, whatever the CRC says.
        """
        first, frames, at = chunk_span(body, offset)
        if frames * len(self.sizes) > MAX_SYMBOLS:
            raise TokError(f"a chunk claims {frames} frames, more than the format allows", offset)
        payload = body[at:]
        if len(payload) != packed_size(self.bits, frames):
            raise TokError(f"a chunk of {frames} frames cannot have {len(payload)} bytes", offset)
        codes = unpack(payload, self.bits, frames)
        try:
            self.check(codes)
        except TokError as error:
            raise TokError(str(error), offset) from None
        return first, codes


def chunk_span(body: bytes, offset: int) -> tuple[int, int, int]:
    """(first frame, frames, start of the payload) of a chunk's body, of which 18 bytes are enough."""
    try:
        first, at = get_varint(body, 0)
        frames, at = get_varint(body, at)
    except IndexError:
        raise TokError("a chunk is too short", offset) from None
    if not frames or first + frames > MAX_FRAME:
        raise TokError(f"a chunk claims to be frames {first} to {first + frames}", offset)
    return first, frames, at
