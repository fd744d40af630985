"""The data of a run as one endless row of batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from codec.data.dataset import Batch
from codec.data.loader import CropLoader
from codec.data.module import AudioData


class EndlessData(AudioData):
    """Training batches without an end: what counts is the number of the batch.

    Lightning would restart its loops, its counters and the workers at the end of every pass over the data.
    """

    @property
    def batch_size(self) -> int:
        """Crops per process and batch."""
        return self._batch_size

    def train_dataloader(self) -> Any:
        """Batches from where the run is, for ever."""
        loader = super().train_dataloader()
        loader.steps = sys.maxsize
        return _Endless(loader)


class _Endless:
    """A loader without a length, so that the trainer does not count passes."""

    def __init__(self, loader: CropLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._loader)
