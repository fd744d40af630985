"""Reads a .tok file or stream: whole, from a pipe, from any frame on, or around its damaged places."""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from codec.bitstream.chunk import ChunkCoder, End, Gap, parse_end
from codec.bitstream.header import LONGEST_CORRECTED, PREFIX, Header, correct, header_size, parse_header
from codec.bitstream.pack import Codes
from codec.bitstream.records import END, ENTROPY, RAW
from codec.bitstream.seek import find_end, find_frame
from codec.bitstream.source import Source, records
from codec.errors import TokError

MAX_GAP = 1 << 24  # frames; a larger jump is damage or malice, not a loss worth filling


class TokReader:
    """Reads codes chunk by chunk; iterate it once.

    Args:
        file: a binary file, read from where it stands; pipes and sockets work too.
        errors: ``"strict"`` raises at the first damage, after the chunks before it; ``"skip"`` goes on with
            the next whole chunk, says by a `Gap` what is lost, and puts one damaged byte of the header right.

    Attributes:
        header: see `Header`.
        end: the end record once iteration met it; None after that means that the file was cut.

    Raises:
        TokError: the header is not readable; while iterating: damage, under ``"strict"``.
    """

    def __init__(self, file: BinaryIO, *, errors: Literal["strict", "skip"] = "strict") -> None:
        if errors not in ("strict", "skip"):
            raise ValueError(f'errors must be "strict" or "skip", not {errors!r}')
        self._file = file
        self._skip = errors == "skip"
        self._start = file.tell() if file.seekable() else 0
        self._source = Source(file)
        self.header = self._read_header()
        self._coder = ChunkCoder(self.header)
        self._first_record = self._source.position
        self.end: End | None = None

    @property
    def num_samples(self) -> int | None:
        """Samples per channel of the source: the header's, else the end record's as soon as that was met."""
        if self.header.num_samples is None and self.end:
            return self.end.samples
        return self.header.num_samples

    def __iter__(self) -> Iterator[Codes | Gap]:
        """Yields codes (K, t) int64, chunk by chunk, and under ``"skip"`` a `Gap` where frames are lost."""
        for _, piece in self._pieces(self._source, 0):
            yield piece

    def seek_frames(self, start: int, count: int | None = None) -> Iterator[Codes | Gap]:
        """Yields the codes of ``count`` frames (None: all) from ``start`` on; reads only what that needs.

        The file must be seekable, and is shared with plain iteration: finish one before the other. Frames
        beyond the end of the file are not an error; they do not come.
        """
        stop = start + MAX_GAP**2 if count is None else start + count
        before = self._file.tell()
        try:
            at, due = find_frame(self._file, self._start, self._first_record, start)
            self._file.seek(self._start + at)
            for first, piece in self._pieces(Source(self._file, at), due):
                if first >= stop:
                    return
                low, high = max(0, start - first), stop - first
                if isinstance(piece, Gap):
                    lost = min(piece.frames, high) - low
                    if lost > 0:
                        yield Gap(first + low, lost, piece.offset)
                elif piece.shape[1] > low:
                    yield piece[:, low:high]
                if first + _frames(piece) >= stop:
                    return
        finally:
            self._file.seek(before)

    def find_end(self) -> End | None:
        """The end record of a seekable file, read at its end without the rest; None where there is none."""
        before = self._file.tell()
        found = find_end(self._file, self._start)
        self._file.seek(before)
        return found[0] if found else None

    def _read_header(self) -> Header:
        try:
            source = self._source
            source.fill(PREFIX)
            size = header_size(source.buffer)
            if source.fill(size) < size:
                raise TokError("the file is cut inside its header", len(source.buffer))
            header = parse_header(source.buffer[:size])
        except TokError:
            source.fill(LONGEST_CORRECTED)
            block = correct(bytes(source.buffer[:LONGEST_CORRECTED])) if self._skip else None
            if block is None:
                raise
            header, size = parse_header(block), len(block)
        source.take(size)
        return header

    def _pieces(self, source: Source, due: int) -> Iterator[tuple[int, Codes | Gap]]:
        """(first frame, codes or gap) of every piece, from the record where frame ``due`` should start."""
        for kind, body, offset in records(source, self._skip):
            try:
                if kind == END:
                    end = parse_end(body, offset)
                    yield from self._gap(due, end.frames, offset)
                    self.end = end
                    return
                if kind not in (RAW, ENTROPY):
                    continue
                first, codes = self._coder.parse(kind, body, offset)
                yield from self._gap(due, first, offset)
            except TokError:
                if self._skip:
                    continue
                raise
            yield first, codes
            due = first + codes.shape[1]
        if not self._skip:
            raise TokError("the file is cut: it has no end record", source.position)

    def _gap(self, due: int, found: int, offset: int) -> Iterator[tuple[int, Gap]]:
        """The lost frames between the one that was due and the one that was found."""
        if found == due:
            return
        if not self._skip or not 0 < found - due <= MAX_GAP:
            raise TokError(f"frame {due} was due, and frame {found} came", offset)
        yield due, Gap(due, found - due, offset)


def _frames(piece: Codes | Gap) -> int:
    return piece.frames if isinstance(piece, Gap) else piece.shape[1]
