"""The .tok file: header, chunks, bit packing, checksums; docs/tok-format.md is its specification."""

from codec.bitstream.chunk import Gap
from codec.bitstream.files import Repair, read_tok, repair, write_tok
from codec.bitstream.header import RESAMPLERS, Header
from codec.bitstream.prior import Prior
from codec.bitstream.reader import TokReader
from codec.bitstream.writer import TokWriter
from codec.errors import TokError

__all__ = [
    "RESAMPLERS",
    "Gap",
    "Header",
    "Prior",
    "Repair",
    "TokError",
    "TokReader",
    "TokWriter",
    "read_tok",
    "repair",
    "write_tok",
]
