"""Whole .tok files by path: read, write at once or not at all, repair."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codec.bitstream.chunk import Gap
from codec.bitstream.header import Header
from codec.bitstream.pack import Codes
from codec.bitstream.prior import Prior
from codec.bitstream.reader import TokReader
from codec.bitstream.records import LOST, put_record
from codec.bitstream.writer import TokWriter
from codec.errors import TokError
from codec.system import PathLike, atomic_write


def write_tok(
    path: PathLike,
    header: Header,
    codes: npt.NDArray[np.integer],
    *,
    frames_per_chunk: int | None = None,
    entropy: bool = False,
    prior: Prior | None = None,
    index: bool = True,
) -> None:
    """Writes codes (K, T) as one .tok file, whole or not at all; the options are those of `TokWriter`."""
    with (
        atomic_write(path) as file,
        TokWriter(
            file, header, frames_per_chunk=frames_per_chunk, entropy=entropy, prior=prior, index=index
        ) as writer,
    ):
        writer.write(codes)


def read_tok(path: PathLike, *, prior: Prior | None = None) -> tuple[Header, Codes]:
    """Reads a whole .tok file: its header, with `num_samples` filled in, and its codes (K, T) int64.

    Raises:
        TokError: any damage or declared loss; `TokReader` reads what is left, with `Gap` objects between.
    """
    with open(path, "rb") as file:
        reader = TokReader(file, prior=prior)
        parts = [np.empty((len(reader.header.codebook_sizes), 0), np.int64)]
        for piece in reader:
            if isinstance(piece, Gap):
                raise TokError(f"frames {piece.start} to {piece.start + piece.frames} are lost", piece.offset)
            parts.append(piece)
    return replace(reader.header, num_samples=reader.num_samples), np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Repair:
    """What `repair` found: the frames it kept, the gaps it left, and whether the file had its end."""

    header: Header
    frames: int
    gaps: tuple[Gap, ...]
    had_end: bool

    @property
    def lost_frames(self) -> int:
        """Frames in the gaps."""
        return sum(gap.frames for gap in self.gaps)


def repair(src: PathLike, dst: PathLike) -> Repair:
    """Writes a whole file of all that is left of a damaged or cut one; the lost frames stay declared gaps.

    ``dst`` may be ``src``. A file that was cut keeps no sample count, for its source was longer.

    Raises:
        TokError: no header can be read, not even its copy.
    """
    with open(src, "rb") as file, atomic_write(dst) as out:
        reader = TokReader(file, errors="skip")
        header = replace(reader.header, num_samples=None)  # the end record tells it, if it is known
        writer = TokWriter(out, header)
        gaps, kept = [], 0
        for span in reader.spans():
            if span.kind == LOST:
                gaps.append(Gap(span.first, span.frames, span.offset))
                writer.write_gap(span.frames)
            else:
                kept += span.frames
                writer.put_chunk(put_record(span.kind, span.body), span.frames)
        writer.num_samples = reader.num_samples if reader.end else None
        writer.close()
    return Repair(reader.header, kept, tuple(gaps), reader.end is not None)
