"""Statistics of tokens: usage, perplexity and entropy of each codebook, and re-encode stability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.quantizers.usage import usage_entropy

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CodebookStatistics:
    """How one codebook was used.

    Attributes:
        size: codes V.
        tokens: tokens that were counted; fewer than a few V say little about rare codes.
        used: codes that occurred, from 0 to V.
        entropy: `-sum p log2 p` in bits, from 0 to log2 V; of single tokens, not of sequences.
    """

    size: int
    tokens: int
    used: int
    entropy: float

    @property
    def usage(self) -> float:
        """Share of the codes that occurred, 0 to 1."""
        return self.used / self.size

    @property
    def perplexity(self) -> float:
        """`2 ** entropy`: as many equally likely codes have the same entropy, 1 to V."""
        return float(2**self.entropy)

    @property
    def reach(self) -> float:
        """Share of the codes that so few tokens could use at most, 0 to 1: usage, where there are V tokens and more."""
        return self.used / max(1, min(self.size, self.tokens))


def count(codes: Codes, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Occurrences of every code of each codebook in codes `(K, T)`; clips are added up by adding these.

    Raises:
        ValueError: a code lies outside its codebook, or there are not as many rows as sizes.
    """
    if codes.ndim != 2 or len(codes) != len(sizes):
        raise ValueError(f"codes {codes.shape} are not ({len(sizes)}, T)")
    if codes.size and (codes.min() < 0 or (codes.max(axis=1) >= np.asarray(sizes)).any()):
        raise ValueError("a code lies outside its codebook")
    return [np.bincount(row, minlength=size) for row, size in zip(codes, sizes, strict=True)]


def codebook_statistics(counts: NDArray[np.int64] | Tensor) -> CodebookStatistics:
    """Usage and entropy of one codebook from the occurrences of its codes `(V,)`."""
    counts = torch.as_tensor(counts)
    _, nats = usage_entropy(counts.double())
    used, tokens = int((counts > 0).sum()), int(counts.sum())
    return CodebookStatistics(len(counts), tokens, used, float(nats) / math.log(2) + 0.0)


def stability(first: Codes, second: Codes) -> float:
    """Share of tokens `(K, T)` that survive decoding and encoding again, 0 to 1.

    Raises:
        ValueError: the two do not have the same shape, or are empty.
    """
    if first.shape != second.shape or not first.size:
        raise ValueError(f"codes {first.shape} and {second.shape} cannot be compared")
    return float(np.mean(first == second))
