"""Statistics of tokens: usage, perplexity and entropy of each codebook, and re-encode stability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class BookStatistics:
    """How one codebook was used.

    Attributes:
        size: entries V.
        tokens: tokens that were counted; fewer than a few V say little about rare entries.
        used: entries that occurred, from 1 to V.
        entropy: `-sum p log2 p` in bits, from 0 to log2 V; of single tokens, not of sequences.
    """

    size: int
    tokens: int
    used: int
    entropy: float

    @property
    def usage(self) -> float:
        """Share of the entries that occurred, 0 to 1."""
        return self.used / self.size

    @property
    def perplexity(self) -> float:
        """`2 ** entropy`: as many equally likely entries have the same entropy, 1 to V."""
        return float(2**self.entropy)


def count(codes: Codes, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Occurrences of every entry of each book in codes `(K, T)`; clips are added up by adding these.

    Raises:
        ValueError: a code lies outside its book, or there are not as many rows as sizes.
    """
    if codes.ndim != 2 or len(codes) != len(sizes):
        raise ValueError(f"codes {codes.shape} are not ({len(sizes)}, T)")
    if codes.size and (codes.min() < 0 or (codes.max(axis=1) >= np.asarray(sizes)).any()):
        raise ValueError("a code lies outside its book")
    return [np.bincount(row, minlength=size) for row, size in zip(codes, sizes, strict=True)]


def book_statistics(counts: NDArray[np.int64]) -> BookStatistics:
    """Usage and entropy of one book from the occurrences of its entries `(V,)`.

    Raises:
        ValueError: nothing was counted.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no token was counted")
    share = counts[counts > 0] / total
    return BookStatistics(len(counts), total, len(share), float(-(share * np.log2(share)).sum()) + 0.0)


def stability(first: Codes, second: Codes) -> float:
    """Share of tokens `(K, T)` that survive decoding and encoding again, 0 to 1.

    Raises:
        ValueError: the two do not have the same shape, or are empty.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(f"codes {first.shape} and {second.shape} cannot be compared")
    return float(np.mean(first == second))
