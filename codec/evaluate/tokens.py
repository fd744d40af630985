"""Our own codecs as systems: sound to .tok bytes and back, through a damaged channel where one is asked for."""

from __future__ import annotations

import io
import time
import zlib
from dataclasses import replace
from functools import cache

import numpy as np

from codec import audio, files
from codec.bitstream import Header, TokReader, TokWriter
from codec.bitstream.pack import Codes, code_bits, packed_size
from codec.distort import TokenChannel
from codec.errors import ConfigError, TokError
from codec.evaluate.system import Coded, System, sound_file
from codec.metrics.base import Signal
from codec.metrics.tokens import stability
from codec.models.codec import Codec
from codec.quantizers.scalar import Scalar


class Tokens(System):
    """A weights file, `NAME_OR_PATH` or `NAME_OR_PATH@CODEBOOKS`.

    The clip goes through `encode_file` and `decode_file`, so the rate is that of real .tok bytes.
    """

    def __init__(self, spec: str, channel: TokenChannel | None = None) -> None:
        self.spec = f"{spec}+{channel}" if channel else spec
        self.channel = channel
        name, _, number = spec.rpartition("@")
        if not number.isdecimal() or not name:
            name, number = spec, ""
        self.name = name
        self.family = name + (f"+{channel}" if channel else "")
        self.num_codebooks = int(number) if number else None
        codec = _load(name)
        if self.num_codebooks is not None and self.num_codebooks not in codec.quantizer.prefixes:
            legal = ", ".join(map(str, codec.quantizer.prefixes))
            raise ConfigError(f"the model {name!r} has no {self.num_codebooks} codebooks; it has {legal}")

    def missing(self) -> str | None:
        quantizer = _load(self.name).quantizer
        if self.channel is not None and self.channel.digits and not isinstance(quantizer, Scalar):
            return f"the quantizer {type(quantizer).__name__} has no digits to pack apart"
        return None

    def identity(self) -> str:
        """Its name and the fingerprint of the weights."""
        return f"{self.spec} {_load(self.name).metadata['fingerprint']}"

    def reference(self) -> System:
        """The model with all its codebooks and no channel: a low rate may cost level, and that is no fault of ours."""
        return Tokens(self.name) if self.num_codebooks or self.channel else self

    def code(self, signal: Signal, rate: int) -> Coded:
        codec = _load(self.name)
        source = sound_file(signal, rate, "FLOAT")
        started = time.perf_counter()
        content = self._encode(source, codec)
        middle = time.perf_counter()
        header, codes = _parse(content)
        arrived = content
        payload = packed_size(code_bits(header.codebook_sizes), codes.shape[1])
        extra = 0
        if self.channel:
            levels = _levels(codec)[: len(codes)]
            # the same bits are hit whatever the model
            received = self.channel.damage(codes, levels, codec.frame_rate, str(zlib.crc32(source)))
            if self.channel.digits:
                bits = tuple(sum(code_bits(digits)) for digits in levels)
                extra = packed_size(bits, codes.shape[1]) - payload
            arrived = _file(header, received)
            middle = time.perf_counter()
        decoded = _decode(arrived, codec)
        done = time.perf_counter()
        again = None if self.channel else _parse(self._encode(sound_file(decoded, rate, "FLOAT"), codec))[1]
        return Coded(
            decoded,
            payload + extra,
            len(content) + extra,
            middle - started,
            done - middle,
            codes,
            header.codebook_sizes,
            None if again is None else stability(codes, again),
        )

    def _encode(self, source: bytes, codec: Codec) -> bytes:
        target = io.BytesIO()
        files.encode_file(io.BytesIO(source), target, codec, num_codebooks=self.num_codebooks)
        return target.getvalue()


def _levels(codec: Codec) -> list[tuple[int, ...]]:
    """Levels of the digits of each codebook, for scalar quantizers; for others the codebook's size."""
    quantizer = codec.quantizer
    if isinstance(quantizer, Scalar):
        return [tuple(quantizer.levels[low:high].tolist()) for low, high in quantizer.spans]
    return [(size,) for size in quantizer.codebook_sizes]


def _decode(content: bytes, codec: Codec) -> Signal:
    target = io.BytesIO()
    files.decode_file(io.BytesIO(content), target, codec, format="wav")
    target.seek(0)
    return audio.read(target)[0][0]


def _parse(content: bytes) -> tuple[Header, Codes]:
    reader = TokReader(io.BytesIO(content))
    pieces = []
    for piece in reader:
        if not isinstance(piece, np.ndarray):
            raise TokError("a fresh token file has a gap", piece.offset)
        pieces.append(piece)
    return replace(reader.header, num_samples=reader.num_samples), np.concatenate(pieces, axis=1)


def _file(header: Header, codes: Codes) -> bytes:
    target = io.BytesIO()
    with TokWriter(target, header) as writer:
        writer.write(codes)
    return target.getvalue()


@cache
def _load(name: str) -> Codec:
    return files.load(name)
