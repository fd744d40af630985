"""Our own codecs as systems: sound to .tok bytes and back, through a damaged channel where one is asked for."""

from __future__ import annotations

import io
import time
import zlib
from dataclasses import replace
from functools import cache

import numpy as np

from codec import api, audio
from codec.bitstream import Header, TokReader, TokWriter
from codec.bitstream.pack import Codes, code_bits, packed_size
from codec.errors import ConfigError, TokError
from codec.evaluate.channel import Channel
from codec.evaluate.system import Coded, System, sound_file
from codec.metrics.base import Signal
from codec.metrics.tokens import stability
from codec.models.codec import Codec


class Tokens(System):
    """A weights file, `NAME_OR_PATH` or `NAME_OR_PATH@BOOKS`.

    The clip goes through `encode_file` and `decode_file`, so the rate is that of real .tok bytes.
    """

    def __init__(self, spec: str, channel: Channel | None = None) -> None:
        self.spec = f"{spec}+{channel}" if channel else spec
        self.channel = channel
        name, _, books = spec.rpartition("@")
        if not books.isdecimal() or not name:
            name, books = spec, ""
        self.name = name
        self.family = name + (f"+{channel}" if channel else "")
        self.books = int(books) if books else None
        codec = _load(name)
        if self.books is not None and self.books not in codec.quantizer.prefixes:
            legal = ", ".join(map(str, codec.quantizer.prefixes))
            raise ConfigError(f"the model {name!r} has no {self.books} codebooks; it has {legal}")

    def missing(self) -> str | None:
        if self.channel is not None and self.channel.digits:
            try:
                self.channel.levels(_load(self.name))
            except ConfigError as error:
                return str(error)
        return None

    def identity(self) -> str:
        """Its name and the fingerprint of the weights."""
        return f"{self.spec} {_load(self.name).metadata['fingerprint']}"

    def witness(self) -> System:
        """The model with all its books and no channel: a low rate may cost level, and that is no fault of ours."""
        return Tokens(self.name) if self.books or self.channel else self

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
            # the same bits are hit whatever the model
            seed = str(zlib.crc32(source))
            received = self.channel.damage(codes, header.codebook_sizes, codec, seed)
            extra = packed_size(self.channel.bits(header.codebook_sizes, codec), codes.shape[1]) - payload
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
        api.encode_file(io.BytesIO(source), target, codec, num_codebooks=self.books)
        return target.getvalue()


def _decode(content: bytes, codec: Codec) -> Signal:
    target = io.BytesIO()
    api.decode_file(io.BytesIO(content), target, codec, format="wav")
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
    return api.load(name)
