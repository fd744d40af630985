"""Reads a .tok file or stream: whole, from a pipe, from any frame on, or around its damaged places."""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from codec.bitstream.chunk import MAX_GAP, ChunkCoder, End, Gap, Span, parse_end, parse_span
from codec.bitstream.entropy import TablesError
from codec.bitstream.header import LONGEST, PREFIX, Header, correct, header_size, parse_header
from codec.bitstream.pack import Codes
from codec.bitstream.prior import Prior
from codec.bitstream.records import END, ENTROPY, HEADER, LOST, RAW
from codec.bitstream.seek import find_end, find_frame
from codec.bitstream.source import Source, records
from codec.errors import TokError

SHORT_HEADER = 128  # bytes, which is more than most have


class TokReader:
    """Reads codes chunk by chunk; iterate it once.

    Args:
        file: a binary file, read from where it stands; pipes and sockets work too.
        errors: ``"strict"`` raises at the first damage, after the chunks before it; ``"skip"`` goes on with
            the next whole chunk, says by a `Gap` what is lost, puts one damaged byte of the header right, or
            takes the header's copy near the end of a long file.
        prior: the model's entropy tables; only entropy-coded files that were written with them need them.

    Attributes:
        header: see `Header`.
        end: the end record once iteration met it; None after that means that the file was cut.

    Raises:
        TokError: the header is not readable; while iterating: damage, under ``"strict"``.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        errors: Literal["strict", "skip"] = "strict",
        prior: Prior | None = None,
    ) -> None:
        if errors not in ("strict", "skip"):
            raise ValueError(f'errors must be "strict" or "skip", not {errors!r}')
        self._file = file
        self._skip = errors == "skip"
        self._start = file.tell() if file.seekable() else 0
        self._source = Source(file)
        self.header = self._read_header()
        if prior and not prior.fits(self.header.codebook_sizes[:: self.header.streams]):
            prior = None  # a chunk that needs tables will say so
        self._coder = ChunkCoder(self.header, prior=prior)
        self._first_record = self._source.position
        self.end: End | None = None
        self._frames = 0
        self._done = False

    def __iter__(self) -> Iterator[Codes | Gap]:
        """Yields codes (K, t) int64, chunk by chunk, and a `Gap` where frames are lost.

        Under ``"strict"`` only a repaired file has gaps: those that its writer declared.
        """
        for _, piece in self._pieces(self.spans()):
            yield piece

    def spans(self) -> Iterator[Span]:
        """Yields the chunks as they are in the file, not decoded, and the lost frames between them."""
        for span in self._spans(self._source, 0):
            yield span
            self._frames = span.first + span.frames
        self._done = True

    @property
    def num_samples(self) -> int | None:
        """Samples per channel of the source.

        The header's, else, as soon as that was met, the end record's. After the last chunk it is never more
        than the frames can stand for, whatever a damaged or cut file says.
        """
        samples = self.header.num_samples
        if samples is None and self.end:
            samples = self.end.samples
        if samples is not None and self._done:
            samples = min(samples, self.header.most_samples(self._frames))
        return samples

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
            for first, piece in self._pieces(self._spans(Source(self._file, at), due)):
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
        except TokError as error:
            if not self._skip:
                raise
            for most in (SHORT_HEADER, LONGEST):  # a live stream cannot wait for the longest header
                source.fill(most)
                block = correct(bytes(source.buffer[:most]))
                if block:
                    break
            else:
                return self._find_copy(error)
            header, size = parse_header(block), len(block)
        source.take(size)
        return header

    def _find_copy(self, error: TokError) -> Header:
        """The header's copy between the records of a long file; raises ``error`` where there is none."""
        self._source.to_sync()
        for kind, body, _ in records(self._source, skip=True):
            if kind == HEADER:
                if self._file.seekable():
                    self._file.seek(self._start)
                    self._source = Source(self._file)
                    self._source.to_sync()
                return parse_header(body)
        raise error

    def _pieces(self, spans: Iterator[Span]) -> Iterator[tuple[int, Codes | Gap]]:
        """(first frame, its codes or the gap) of every span."""
        for span in spans:
            piece: Codes | Gap = Gap(span.first, span.frames, span.offset)
            if span.kind != LOST:
                try:
                    piece = self._coder.parse(span)
                except TablesError:
                    raise
                except TokError:
                    if not self._skip:
                        raise
            yield span.first, piece

    def _spans(self, source: Source, due: int) -> Iterator[Span]:
        """The spans from the record on where frame ``due`` should start."""
        for kind, body, offset in records(source, self._skip):
            try:
                if kind == END:
                    end = parse_end(body, offset)
                    yield from self._gap(due, end.frames, offset)
                    if not self._skip:
                        self._check_samples(end, offset)
                    self.end = end
                    return
                if kind not in (RAW, ENTROPY, LOST):
                    continue
                span = parse_span(kind, body, offset)
                if span.frames > (MAX_GAP if kind == LOST else self._coder.most_frames):
                    raise TokError(f"{span.frames} frames are more than the format allows", offset)
                yield from self._gap(due, span.first, offset)
            except TokError:
                if self._skip:
                    continue
                raise
            yield span
            due = span.first + span.frames
        if not self._skip:
            raise TokError("the file is cut: it has no end record", source.position)

    def _check_samples(self, end: End, offset: int) -> None:
        told = {self.header.num_samples, end.samples} - {None}
        if len(told) > 1:
            raise TokError(
                f"the header tells of {self.header.num_samples} samples, the end of {end.samples}", offset
            )
        for samples in told:
            if samples and samples > self.header.most_samples(end.frames):
                raise TokError(f"{end.frames} frames cannot be {samples} samples", offset)

    def _gap(self, due: int, found: int, offset: int) -> Iterator[Span]:
        """The lost frames between the one that was due and the one that was found."""
        if found == due:
            return
        if not self._skip or not 0 < found - due <= MAX_GAP:
            raise TokError(f"frame {due} was due, and frame {found} came", offset)
        yield Span(due, found - due, LOST, b"", offset)


def _frames(piece: Codes | Gap) -> int:
    return piece.frames if isinstance(piece, Gap) else piece.shape[1]
