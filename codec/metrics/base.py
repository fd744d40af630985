"""What every metric is: a function, and a class that says what its number means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from codec import assets

Signal = NDArray[np.float32]
SILENCE = 1e-4  # a signal whose loudest sample lies below -80 dB of full scale holds nothing to compare


class Unscorable(Exception):
    """This metric says nothing about this clip; the message is the reason, which reports count."""


class Metric(ABC):
    """A number for a decoded clip, given the original.

    Attributes:
        name: short, as in tables and files.
        title: as on axes.
        unit: of the number, empty for none.
        low: the smallest value.
        high: the largest value.
        higher_is_better: the direction.
        source: the paper.
        packages: what must be installed for it, beyond what this package always has.
        extra: of this package that brings them.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = ""
    low: ClassVar[float]
    high: ClassVar[float]
    higher_is_better: ClassVar[bool]
    source: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "eval"

    def missing(self) -> str | None:
        """Why this metric cannot run here, or None if it can."""
        absent = [package for package in self.packages if find_spec(package) is None]
        if not absent:
            return None
        names = " and ".join(absent)
        return f"{self.name} needs {names}, which is not installed: {assets.install(self.extra)}"

    @abstractmethod
    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        """Score one clip.

        Args:
            estimate: the decoded clip `(N,)`.
            reference: the original `(N,)`, of the same length, delay removed.
            sample_rate: of both, in hertz.

        Raises:
            Unscorable: the metric is not defined for this clip.
        """


def check(estimate: Signal, reference: Signal, *, both: bool = False) -> None:
    """Raise `Unscorable` where nothing can be compared.

    Args:
        estimate: `(N,)`.
        reference: `(N,)`.
        both: the estimate must hold sound too.

    Raises:
        ValueError: the two do not have the same length.
    """
    if estimate.shape != reference.shape or reference.ndim != 1:
        raise ValueError(f"estimate {estimate.shape} and reference {reference.shape} must both be (N,)")
    if reference.size == 0 or float(np.abs(reference).max()) < SILENCE:
        raise Unscorable("the original is silent")
    if both and float(np.abs(estimate).max()) < SILENCE:
        raise Unscorable("the decoded clip is silent")
