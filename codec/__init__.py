"""Neural audio codecs: audio in, discrete tokens out, and back.

The public names are loaded on first use, so that ``import codec`` needs neither torch nor a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codec.bitstream import read_tok as read_tok
    from codec.bitstream import write_tok as write_tok
    from codec.checkpoint import load as load
    from codec.errors import CodecError as CodecError
    from codec.files import decode_file as decode_file
    from codec.files import encode_file as encode_file
    from codec.models import latent
    from codec.models.codec import Codec as Codec

    StreamDecoder = latent.DecoderStream
    StreamEncoder = latent.EncoderStream

__version__ = "0.1.0"

_HOME = {
    "load": "codec.checkpoint:load",
    "encode_file": "codec.files:encode_file",
    "decode_file": "codec.files:decode_file",
    "Codec": "codec.models.codec:Codec",
    "StreamEncoder": "codec.models.latent:EncoderStream",
    "StreamDecoder": "codec.models.latent:DecoderStream",
    "read_tok": "codec.bitstream:read_tok",
    "write_tok": "codec.bitstream:write_tok",
    "CodecError": "codec.errors:CodecError",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        module, _, attribute = _HOME[name].partition(":")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'codec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
