"""Channels that damage tokens: bits of the packed payload flip, or packets of frames are lost."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.pack import Codes, code_bits, pack, unpack
from codec.errors import ConfigError

if TYPE_CHECKING:
    from codec.models.codec import Codec

PACKET = 0.02  # seconds; a lost packet takes all frames that start in it
USES = "bsc:P, burst:P,LENGTH, gilbert:P,LENGTH, erasure:P, each with ,digits behind it for FSQ digits packed apart"


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel, `KIND:SHARE[,LENGTH][,digits]`.

    - `bsc:P`: every bit flips with probability P (binary symmetric).
    - `burst:P,L`: bits flip in runs of exactly L bits; a share P of all bits, on average.
    - `gilbert:P,L`: Gilbert-Elliott; in the bad state, of mean length L bits, half of the bits flip; a share P flips
      in all (Gilbert, "Capacity of a burst-noise channel", 1960).
    - `erasure:P`: packets of 20 ms are lost with probability P; the last frame that arrived is repeated.

    `digits` packs each digit of a code of a scalar quantizer (FSQ) in bits of its own, so that a flipped bit hurts
    one digit. A code that does not exist becomes the nearest that does, as a receiver without more knowledge would.
    """

    kind: str
    share: float
    length: int = 1
    digits: bool = False

    def __str__(self) -> str:
        length = f",{self.length}" if self.kind in ("burst", "gilbert") else ""
        return f"{self.kind}:{self.share:g}{length}{',digits' if self.digits else ''}"

    @classmethod
    def parse(cls, text: str) -> Channel:
        """Read `KIND:SHARE[,LENGTH][,digits]`.

        Raises:
            ConfigError: not a channel.
        """
        kind, _, rest = text.partition(":")
        parts = rest.split(",")
        digits = parts[-1] == "digits"
        numbers = parts[:-1] if digits else parts
        wants_length = kind in ("burst", "gilbert")
        try:
            share = float(numbers[0])
            length = int(numbers[1]) if wants_length else 1
        except (ValueError, IndexError):
            share, length = -1.0, 0
        most = 0.5 if kind == "gilbert" else 1.0
        if (
            kind not in ("bsc", "burst", "gilbert", "erasure")
            or len(numbers) != 1 + wants_length
            or not 0 <= share <= most
            or length < 1
            or (digits and kind == "erasure")
        ):
            raise ConfigError(f"there is no channel {text!r}; there are {USES}")
        return cls(kind, share, length, digits)

    def damage(self, codes: Codes, sizes: tuple[int, ...], codec: Codec, seed: str) -> Codes:
        """What arrives of codes `(K, T)`; the same for the same seed.

        Raises:
            ConfigError: digits are asked for, and the codec's quantizer has none.
        """
        rng = np.random.default_rng(zlib.crc32(f"{self} {seed}".encode()))
        if self.kind == "erasure":
            return self._erase(codes, codec, rng)
        if not self.digits:
            return self._flip(codes, sizes, rng)
        levels = self.levels(codec)[: len(sizes)]
        rows = [_split(row, book) for row, book in zip(codes, levels, strict=True)]
        flat = tuple(level for book in levels for level in book)
        arrived = self._flip(np.concatenate(rows), flat, rng)
        books = np.split(arrived, np.cumsum([len(book) for book in levels])[:-1])
        return np.stack([_join(book, level) for book, level in zip(books, levels, strict=True)])

    def bits(self, sizes: tuple[int, ...], codec: Codec) -> tuple[int, ...]:
        """Bits that a code of each book takes on its way."""
        if not self.digits:
            return code_bits(sizes)
        return tuple(sum(code_bits(book)) for book in self.levels(codec)[: len(sizes)])

    @staticmethod
    def levels(codec: Codec) -> list[tuple[int, ...]]:
        """Levels of the digits of every book of a scalar quantizer.

        Raises:
            ConfigError: the quantizer is no scalar one.
        """
        quantizer = codec.quantizer
        levels, spans = getattr(quantizer, "levels", None), getattr(quantizer, "spans", None)
        if levels is None or spans is None:
            raise ConfigError(f"the quantizer {type(quantizer).__name__} has no digits to pack apart")
        return [tuple(int(level) for level in levels[low:high]) for low, high in spans]

    def _flip(self, codes: Codes, sizes: tuple[int, ...], rng: np.random.Generator) -> Codes:
        bits = code_bits(sizes)
        payload = np.unpackbits(np.frombuffer(pack(codes, bits), np.uint8))
        count = codes.shape[1] * sum(bits)
        payload[:count] ^= self._errors(count, rng)
        arrived = unpack(np.packbits(payload).tobytes(), bits, codes.shape[1])
        return np.minimum(arrived, np.asarray(sizes)[:, None] - 1)

    def _errors(self, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """One where a bit flips."""
        if self.kind == "bsc":
            return (rng.random(count) < self.share).astype(np.uint8)
        if self.kind == "burst":
            # a bit is spared when none of the last `length` places starts a burst
            start = 1 - (1 - self.share) ** (1 / self.length)
            starts = rng.random(count + self.length - 1) < start
            return (np.convolve(starts, np.ones(self.length), "valid") > 0.5).astype(np.uint8)
        bad_share = 2 * self.share
        leave = 1 / self.length
        enter = leave * bad_share / max(1 - bad_share, 1e-9)
        bad, errors = rng.random() < bad_share, np.zeros(count, np.uint8)
        draws = rng.random((2, count))
        for index in range(count):
            errors[index] = bad and draws[0, index] < 0.5
            bad = draws[1, index] >= leave if bad else draws[1, index] < enter
        return errors

    def _erase(self, codes: Codes, codec: Codec, rng: np.random.Generator) -> Codes:
        frames = max(1, round(PACKET * codec.frame_rate))
        packets = -(-codes.shape[1] // frames)
        lost = np.repeat(rng.random(packets) < self.share, frames)[: codes.shape[1]]
        lost[:1] = False  # something must be there to repeat
        last = np.maximum.accumulate(np.where(lost, 0, np.arange(codes.shape[1])))
        return codes[:, last]


def _split(codes: Codes, levels: tuple[int, ...]) -> Codes:
    """Digits `(d, T)` of mixed-radix codes `(T,)`, least significant first."""
    digits, rest = [], codes
    for level in levels:
        digits.append(rest % level)
        rest = rest // level
    return np.stack(digits)


def _join(digits: Codes, levels: tuple[int, ...]) -> Codes:
    radix = np.cumprod([1, *levels[:-1]])
    return (digits * radix[:, None]).sum(axis=0)
