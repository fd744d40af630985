"""Confidence intervals and paired tests, by resampling clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

DRAWS = 2000
FLIPS = 10000


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
    mean = float(_ratio(data * parts, parts))
    if data.size == 1:
        return Estimate(mean, mean, mean, 1)
    sample = (data * parts, parts)
    within = stats.bootstrap(sample, _ratio, paired=True, n_resamples=DRAWS, method="percentile", rng=0)
    low, high = within.confidence_interval
    return Estimate(mean, float(low), float(high), data.size)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Compare two systems by their values on the same clips, `(n,)` each.

    Raises:
        ValueError: no values, or not as many of each.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    within = estimate(list(difference))
    p = 1.0
    if within.count > 1:
        test = stats.permutation_test(
            (difference,), np.mean, permutation_type="samples", n_resamples=FLIPS, rng=0
        )
        p = float(test.pvalue)
    return Paired(within.mean, within.low, within.high, p, within.count)


def _ratio(values: NDArray[np.float64], weights: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis) / weights.sum(axis))
