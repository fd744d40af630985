"""Means of scalars and codebook usage between two rows of the log, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from codec.metrics.tokens import CodebookStatistics, codebook_statistics


class Meter:
    """Sums of named scalars and counts of codes; reading it is the only time that the device is waited for.

    Args:
        sizes: number of codes of each codebook.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._codes: Tensor | None = None

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one observation of each scalar."""
        for name, value in values.items():
            value = value.detach().float()
            if name in self._sums:
                self._sums[name] += value
                self._counts[name] += 1
            else:
                self._sums[name] = value.clone()
                self._counts[name] = 1

    def count(self, codes: Tensor) -> None:
        """Count codes `(B, K', T)`; -1, a codebook left out, is not counted."""
        largest = max(self.sizes)
        if self._codes is None:
            self._codes = torch.zeros(len(self.sizes), largest + 1, dtype=torch.int64, device=codes.device)
        flat = codes.transpose(0, 1).flatten(1)
        # what was left out lands in one more column, so that no decision is needed on the host
        flat = torch.where(flat < 0, largest, flat)
        self._codes[: flat.shape[0]].scatter_add_(1, flat, torch.ones_like(flat))

    def pull(self) -> dict[str, float]:
        """Means of all scalars since the last call."""
        names = list(self._sums)
        if not names:
            return {}
        values = torch.stack([self._sums[name] for name in names]).tolist()
        means = {name: value / self._counts[name] for name, value in zip(names, values, strict=True)}
        self._sums.clear()
        self._counts.clear()
        return means

    def pull_codebooks(self) -> list[CodebookStatistics]:
        """Usage of every codebook since the last call."""
        if self._codes is None:
            return []
        counts = self._codes[:, :-1].cpu()
        self._codes = None
        return [codebook_statistics(row[:size]) for size, row in zip(self.sizes, counts, strict=True)]
