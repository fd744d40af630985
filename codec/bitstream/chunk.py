"""The bodies of the records: chunks of codes, the seek index and the end."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec.bitstream.entropy import EntropyCoder
from codec.bitstream.header import Header
from codec.bitstream.pack import Codes, code_bits, pack, packed_size, unpack
from codec.bitstream.prior import Prior
from codec.bitstream.records import ENTROPY, LOST, MAX_BODY, RAW, get_varint, put_record, put_varint
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


@dataclass(frozen=True, slots=True)
class Span:
    """A chunk of codes, or lost frames, as it is in the file: what a record says before it is decoded."""

    first: int
    frames: int
    kind: int
    body: bytes  # the whole body, this span's own numbers included
    offset: int
    payload_at: int = 0


def parse_span(kind: int, body: bytes, offset: int) -> Span:
    """Reads the first frame and the number of frames of a record; 18 bytes of its body are enough.

    Raises:
        TokError: too short, or senseless numbers.
    """
    try:
        first, at = get_varint(body, 0)
        frames, at = get_varint(body, at)
    except IndexError:
        raise TokError("a chunk is too short", offset) from None
    if not frames or first + frames > MAX_FRAME:
        raise TokError(f"a chunk claims to be frames {first} to {first + frames}", offset)
    return Span(first, frames, kind, body, offset, at)


class ChunkCoder:
    """Turns codes into chunks and back, for one header."""

    def __init__(self, header: Header, entropy: bool = False, prior: Prior | None = None) -> None:
        self.sizes = header.codebook_sizes
        self.entropy = EntropyCoder(self.sizes, header.streams, prior)
        self.compress = entropy and self.entropy.usable
        self.bits = code_bits(self.sizes)
        self.limits = np.array(self.sizes, np.int64)[:, None]
        self.saved_bytes = 0
        # what both the limit on symbols and the limit on a record's body allow
        self.most_frames = min(MAX_SYMBOLS // len(self.sizes), (MAX_BODY - 32) * 8 // sum(self.bits))

    def check(self, codes: npt.NDArray[np.integer]) -> None:
        """Raises TokError unless ``codes`` are (K, t) integers, each inside its codebook."""
        if codes.ndim != 2 or len(codes) != len(self.sizes) or codes.dtype.kind not in "iu":
            raise TokError(f"codes must be ({len(self.sizes)}, t) integers, not {codes.dtype} {codes.shape}")
        wrong = (codes < 0) | (codes >= self.limits)
        if wrong.any():
            row = int(wrong.any(axis=1).argmax())
            raise TokError(f"a code of codebook {row} is outside 0..{self.sizes[row] - 1}")

    def to_record(self, first: int, codes: npt.NDArray[np.integer]) -> bytes:
        """The whole record of checked codes (K, t) that start at frame ``first``."""
        span = put_varint(first) + put_varint(codes.shape[1])
        if self.compress:
            payload = self.entropy.encode(codes)
            saved = packed_size(self.bits, codes.shape[1]) - len(payload)
            if saved > 0:
                self.saved_bytes += saved
                return put_record(ENTROPY, span + payload)
        return put_record(RAW, span + pack(codes, self.bits))

    def parse(self, span: Span) -> Codes:
        """The inverse of `to_record`, for at most `most_frames` frames: codes (K, t).

        Raises:
            TokError: the body is not what a writer makes, whatever the CRC says.
            TablesError: the chunk is entropy coded with tables that are not here.
        """
        payload = span.body[span.payload_at :]
        if span.kind == ENTROPY:
            return self.entropy.decode(payload, span.frames, span.offset)
        if len(payload) != packed_size(self.bits, span.frames):
            raise TokError(f"{span.frames} frames cannot be {len(payload)} bytes", span.offset)
        codes = unpack(payload, self.bits, span.frames)
        try:
            self.check(codes)
        except TokError as error:
            raise TokError(str(error), span.offset) from None
        return codes
