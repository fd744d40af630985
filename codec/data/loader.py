"""Batches in an order that is a function of the step: workers, processes and resuming change nothing."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from codec.data.dataset import Batch, Crop, collate
from codec.errors import ConfigError


class CropLoader:
    """An endless row of batches, cut into epochs; iterating gives the rest of the current epoch.

    Batch b of process r holds the items ``(b * world_size + r) * batch_size + i``, so a run can be resumed at any
    batch, and N processes see what one process with an N times larger batch sees. `state_dict` holds the position.

    Args:
        dataset: gives the crops.
        batch_size: crops per process and step.
        steps: batches per epoch.
        num_workers: processes that decode; 0 decodes in this one.
        rank: number of this training process.
        world_size: number of training processes.
        pin_memory: for copies to a GPU.
    """

    def __init__(
        self,
        dataset: Dataset[Crop],
        *,
        batch_size: int,
        steps: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if min(batch_size, steps) < 1:
            raise ConfigError(f"batch size {batch_size} and {steps} steps per epoch must both be positive")
        self.dataset = dataset
        self.steps = steps
        self.position = 0  # batches given so far
        self.skipped: dict[str, str] = {}  # unusable file -> reason, met so far
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=_Numbers(self),
            num_workers=num_workers,
            collate_fn=collate,
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers else None,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for batch, skipped in self._loader:
            self.skipped |= skipped
            self.position += 1
            yield batch

    def numbers(self, batch: int) -> list[int]:
        """Item numbers of a batch of this process."""
        first = (batch * self._world_size + self._rank) * self._batch_size
        return list(range(first, first + self._batch_size))

    def state_dict(self) -> dict[str, Any]:
        """Where the run is."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where another run was."""
        self.position = int(state["position"])


class _Numbers(torch.utils.data.Sampler[list[int]]):
    """The rest of the current epoch, as lists of item numbers."""

    def __init__(self, loader: CropLoader) -> None:
        self._owner = loader

    def __iter__(self) -> Iterator[list[int]]:
        start = self._owner.position
        for batch in range(start, (start // self._owner.steps + 1) * self._owner.steps):
            yield self._owner.numbers(batch)

    def __len__(self) -> int:
        return self._owner.steps
