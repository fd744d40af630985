"""Confidence intervals and paired tests, by resampling clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
FLIPS = 10000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over clips with its 95% interval: a bootstrap over clips (Efron 1979), percentiles.

    With one clip the interval is that value; it says nothing then.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean difference of two systems on the clips that both have, its interval, and how likely chance is.

    Attributes:
        p: two-sided sign-flip permutation test (Fisher 1935), not corrected for the number of comparisons.
    """

    difference: float
    low: float
    high: float
    p: float
    count: int


def estimate(values: Sequence[float], weights: Sequence[float] | None = None) -> Estimate:
    """Mean and interval of `values` `(n,)`; with `weights` the ratio of sums, as a rate over clips of many lengths.

    Raises:
        ValueError: no values.
    """
    data = np.asarray(values, np.float64)
    if not data.size:
        raise ValueError("there is nothing to average")
    parts = np.ones_like(data) if weights is None else np.asarray(weights, np.float64)
    picks = np.random.default_rng(0).integers(0, data.size, (DRAWS, data.size))
    means = (data * parts)[picks].sum(1) / parts[picks].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float((data * parts).sum() / parts.sum()), float(low), float(high), data.size)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Compare two systems by their values on the same clips, `(n,)` each.

    Raises:
        ValueError: no values, or not as many of each.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    within = estimate(list(difference))
    return Paired(within.mean, within.low, within.high, _sign_flip(difference), within.count)


def _sign_flip(difference: NDArray[np.float64]) -> float:
    """Share of sign assignments whose mean is at least as far from 0; all of them up to 13 clips, else a sample."""
    count = difference.size
    if 2**count <= FLIPS:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        extra = 0
    else:
        bits = np.random.default_rng(0).integers(0, 2, (FLIPS, count))
        extra = 1  # the observed assignment itself
    means = np.abs(((1 - 2 * bits) * difference).mean(axis=1))
    hits = (means >= abs(difference.mean()) * (1 - 1e-12)).sum()
    return float((hits + extra) / (len(bits) + extra))
