"""Whole .tok files by path: read, write at once or not at all, repair."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from codec.bitstream.header import Header
from codec.bitstream.pack import Codes
from codec.bitstream.reader import TokReader
from codec.bitstream.writer import TokWriter

PathLike = str | os.PathLike[str]


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a new binary file that takes the place of ``path`` only when the block ends without an exception.

    It is written beside ``path`` under another name, synced to disk and renamed. A path that exists and is no
    regular file (a device, a named pipe) is opened and written as it is, for there is nothing to replace.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    path = path.resolve()  # a symbolic link keeps pointing; what it points to is replaced
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_tok(
    path: PathLike,
    header: Header,
    codes: npt.NDArray[np.integer],
    *,
    frames_per_chunk: int | None = None,
    index: bool = True,
) -> None:
    """Writes codes (K, T) as one .tok file, whole or not at all; the options are those of `TokWriter`."""
    with (
        atomic_write(path) as file,
        TokWriter(file, header, frames_per_chunk=frames_per_chunk, index=index) as writer,
    ):
        writer.write(codes)


def read_tok(path: PathLike) -> tuple[Header, Codes]:
    """Reads a whole .tok file: its header, with `num_samples` filled in, and its codes (K, T) int64.

    Raises:
        TokError: any damage; `TokReader` with ``errors="skip"`` reads what is left.
    """
    with open(path, "rb") as file:
        reader = TokReader(file)
        parts = [np.empty((len(reader.header.codebook_sizes), 0), np.int64)]
        parts += [piece for piece in reader if isinstance(piece, np.ndarray)]
    return replace(reader.header, num_samples=reader.num_samples), np.concatenate(parts, axis=1)
