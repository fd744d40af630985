"""Contenders timed in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Work = Callable[[], object]
Spent = dict[str, list[float]]


def in_turn(works: Mapping[str, Work], rounds: int, measure: Callable[[Work], float] | None = None) -> Spent:
    """Seconds of each contender in every round, after a round that warms up.

    Args:
        works: contenders by name.
        rounds: that count.
        measure: seconds that a call takes; `timed` by default.
    """
    measure = measure or timed
    spent: Spent = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            spent[name].append(measure(work))
    return {name: times[1:] for name, times in spent.items()}


def timed(work: Work) -> float:
    """Wall seconds of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def ratios(theirs: list[float], ours: list[float]) -> tuple[float, ...]:
    """How many times longer theirs took, round by round."""
    return tuple(t / o for t, o in zip(theirs, ours, strict=True))
