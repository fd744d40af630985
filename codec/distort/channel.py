"""Channels for codes: bits of the packed payload flip, or packets of frames are lost."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codec.bitstream.pack import Codes, code_bits, pack, unpack
from codec.errors import ConfigError

PACKET = 0.02  # seconds; a lost packet takes all frames that start in it
CHANNELS = "bsc:P, burst:P,LENGTH, gilbert:P,LENGTH, erasure:P, each with ,digits behind it for FSQ digits packed apart"


def flip_bits(codes: Codes, sizes: Sequence[int], errors: NDArray[np.uint8]) -> Codes:
    """Codes `(K, T)` after bits of their packed form have flipped.

    A code that does not exist becomes the nearest that does, as a receiver without more knowledge would.

    Args:
        codes: what is sent.
        sizes: of the K codebooks.
        errors: one for each bit of `pack`, 1 where it flips.
    """
    bits = code_bits(tuple(sizes))
    payload = np.unpackbits(np.frombuffer(pack(codes, bits), np.uint8))
    payload[: errors.size] ^= errors
    arrived = unpack(np.packbits(payload).tobytes(), bits, codes.shape[1])
    return np.minimum(arrived, np.asarray(sizes)[:, None] - 1)


def repeat_last(codes: Codes, lost: NDArray[np.bool_]) -> Codes:
    """Codes `(K, T)` in which lost frames `(T,)` are the last one that arrived; the first always arrives."""
    frames = np.arange(codes.shape[1])
    return codes[:, np.maximum.accumulate(np.where(lost, 0, frames))]


@dataclass(frozen=True, slots=True)
class TokenChannel:
    """A channel, `KIND:SHARE[,LENGTH][,digits]`.

    - `bsc:P`: every bit flips with probability P (binary symmetric).
    - `burst:P,L`: bits flip in runs of exactly L bits; a share P of all bits, on average.
    - `gilbert:P,L`: Gilbert-Elliott; in the bad state, of mean length L bits, half of the bits flip; a share P flips
      in all (Gilbert, "Capacity of a burst-noise channel", 1960).
    - `erasure:P`: packets of 20 ms are lost with probability P; the last frame that arrived is repeated.

    `digits` packs each digit of a code of a scalar quantizer (FSQ) in bits of its own, so that a flipped bit damages
    one digit.
    """

    kind: str
    share: float
    length: int = 1
    digits: bool = False

    def __str__(self) -> str:
        length = f",{self.length}" if self.kind in ("burst", "gilbert") else ""
        return f"{self.kind}:{self.share:g}{length}{',digits' if self.digits else ''}"

    @classmethod
    def parse(cls, text: str) -> TokenChannel:
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
            raise ConfigError(f"there is no channel {text!r}; there are {CHANNELS}")
        return cls(kind, share, length, digits)

    def damage(self, codes: Codes, levels: Sequence[tuple[int, ...]], frame_rate: float, seed: str) -> Codes:
        """What arrives of codes `(K, T)`; the same for the same seed.

        Args:
            codes: what is sent.
            levels: of the digits of each codebook, whose product is its size; a codebook without digits has one.
            frame_rate: frames per second.
            seed: of the random numbers.
        """
        random = np.random.default_rng(zlib.crc32(f"{self} {seed}".encode()))
        if self.kind == "erasure":
            frames = max(1, round(PACKET * frame_rate))
            packets = -(-codes.shape[1] // frames)
            return repeat_last(
                codes, np.repeat(random.random(packets) < self.share, frames)[: codes.shape[1]]
            )
        if not self.digits:
            levels = [(int(np.prod(sizes)),) for sizes in levels]
        digits = np.concatenate([_split(row, radix) for row, radix in zip(codes, levels, strict=True)])
        sizes = tuple(size for row in levels for size in row)
        errors = self._errors(codes.shape[1] * sum(code_bits(sizes)), random)
        rows = np.split(flip_bits(digits, sizes, errors), np.cumsum([len(row) for row in levels])[:-1])
        return np.stack([_join(row, radix) for row, radix in zip(rows, levels, strict=True)])

    def _errors(self, count: int, random: np.random.Generator) -> NDArray[np.uint8]:
        """One where a bit flips."""
        if self.kind == "bsc":
            return (random.random(count) < self.share).astype(np.uint8)
        if self.kind == "burst":
            # a bit is spared when none of the last `length` places starts a burst
            start = 1 - (1 - self.share) ** (1 / self.length)
            starts = random.random(count + self.length - 1) < start
            return (np.convolve(starts, np.ones(self.length), "valid") > 0.5).astype(np.uint8)
        bad_share = 2 * self.share
        leave = 1 / self.length
        enter = leave * bad_share / max(1 - bad_share, 1e-9)
        bad, errors = random.random() < bad_share, np.zeros(count, np.uint8)
        draws = random.random((2, count))
        for index in range(count):
            errors[index] = bad and draws[0, index] < 0.5
            bad = draws[1, index] >= leave if bad else draws[1, index] < enter
        return errors


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
