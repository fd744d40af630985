"""The .tok file: header, chunks, bit packing, checksums; docs/tok-format.md is its specification."""

from codec.bitstream.chunk import Gap
from codec.bitstream.files import atomic_write, read_tok, write_tok
from codec.bitstream.header import Header
from codec.bitstream.reader import TokReader
from codec.bitstream.writer import TokWriter
from codec.errors import TokError

__all__ = ["Gap", "Header", "TokError", "TokReader", "TokWriter", "atomic_write", "read_tok", "write_tok"]
