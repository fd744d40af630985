"""Neural audio codecs: audio in, discrete tokens out, and back.

The public names are loaded on first use, so that ``import codec`` needs neither torch nor a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.api import decode_file as decode_file
    from codec.api import encode_file as encode_file
    from codec.api import load as load
    from codec.bitstream import read_tok as read_tok
    from codec.bitstream import write_tok as write_tok
    from codec.errors import CodecError as CodecError
    from codec.models.codec import Codec as Codec
    from codec.stream import StreamDecoder as StreamDecoder
    from codec.stream import StreamEncoder as StreamEncoder

__version__ = "0.1.0"

_HOME = {
    "load": "codec.api",
    "encode_file": "codec.api",
    "decode_file": "codec.api",
    "Codec": "codec.models.codec",
    "StreamEncoder": "codec.stream",
    "StreamDecoder": "codec.stream",
    "read_tok": "codec.bitstream",
    "write_tok": "codec.bitstream",
    "CodecError": "codec.errors",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'codec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
