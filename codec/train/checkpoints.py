"""Saving the whole state of a run: on time, on a signal, atomically; last and best are kept."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from codec.system import atomic_write
from codec.train.config import CheckpointConfig
from codec.train.task import CodecTask

LAST, BEST = "last.ckpt", "best.ckpt"


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk and renames: a kill leaves the old file or the new one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write `checkpoint` to `path`."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            torch.save(checkpoint, file)


class Checkpoints(Callback):
    """Save `last.ckpt` on time, on SIGINT or SIGTERM and at the end, `best.ckpt` after the best validation.

    The first signal ends the run after the batch in hand; a second SIGINT ends it at once, without saving.

    Args:
        folder: where the files go.
        config: when to save.
    """

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        self.folder = folder
        self.config = config
        self.best = float("inf")
        self._signal: int | None = None
        self._saved = time.monotonic()
        self._handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best value back."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals, start the clock."""
        self._saved = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._note)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: CodecTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time; stop if a signal came."""
        minutes, steps = self.config.minutes, self.config.steps
        due = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        due = due or (steps is not None and pl_module.batches % steps == 0)
        stop, save = self._agree(trainer, self._signal is not None, due)
        if save or (stop and self.wanted):
            trainer.save_checkpoint(self.folder / LAST)
            self._saved = time.monotonic()
        if stop:
            raise Interrupted

    def validated(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Save the best; `metrics` are equal on all ranks."""
        value = metrics.get(self.config.best, float("inf"))
        if self.wanted and value < self.best:
            self.best = value
            trainer.save_checkpoint(self.folder / BEST)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        if self.wanted:
            trainer.save_checkpoint(self.folder / LAST)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    @property
    def wanted(self) -> bool:
        """Whether the state of the run is saved at all."""
        return self.config.minutes is not None or self.config.steps is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def _agree(self, trainer: Trainer, stop: bool, save: bool) -> tuple[bool, bool]:
        """What any rank wants, all do: a checkpoint and an exit need every rank at the same batch."""
        if trainer.world_size == 1:
            return stop, save
        flags = torch.tensor([stop, save], dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
        return bool(flags[0]), bool(flags[1])
