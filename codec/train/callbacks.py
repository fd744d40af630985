"""Rows of the log: training every few batches, validation when there is one."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning import Callback, Trainer

from codec.metrics.tokens import CodebookStatistics
from codec.train.checkpoints import Checkpoints
from codec.train.collapse import CollapseWatch
from codec.train.config import LogConfig
from codec.train.log import RunLog
from codec.train.meter import Meter
from codec.train.progress import ProgressLine
from codec.train.task import CodecTask

SHOWN = ("mel", "adv", "disc")  # terms of the progress line, where the objective has them


class Monitor(Callback):
    """Reads the meter every few batches, for log, logger, progress line and warnings.

    Args:
        run_log: of the run.
        config: how often, and when a codebook counts as collapsed.
        progress: where to print.
    """

    def __init__(self, run_log: RunLog, config: LogConfig, progress: ProgressLine) -> None:
        self.run_log = run_log
        self.every = config.every
        self.progress = progress
        self._collapse = CollapseWatch(config.collapse)
        self._skipped = ""  # the last report of files that could not be used
        self._since = (0, 0.0)  # batch and time of the last row
        self._samples = 0  # of audio since then

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far, interruptions left out."""
        return {"seconds": self.run_log.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds back."""
        self.run_log.before = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Open the log."""
        if trainer.is_global_zero:
            self.run_log.keep(pl_module.batches)

    def on_train_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Start clock and progress line."""
        pl_module.keep_codebooks()
        self._skipped = (trainer.datamodule.report() or [""])[0]  # type: ignore[attr-defined]
        self.run_log.start_clock()
        self._since = (pl_module.batches, time.monotonic())
        if trainer.is_global_zero:
            self.progress.start(trainer.global_step, trainer.max_steps)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: CodecTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count audio; write a row when it is time."""
        task = pl_module
        self._samples += batch["audio"].shape[0] * batch["audio"].shape[-1]
        if trainer.is_global_zero:
            start = task.train_config.d_start
            late = (
                f"; longer steps from {start} on, when the discriminators join"
                if task.batches < start
                else ""
            )
            self.progress.step(trainer.global_step, late)
        if task.batches % self.every == 0:
            self._row(trainer, task)
        if task.batches % task.batches_per_epoch == 0:
            self._report_skipped(trainer)

    def _row(self, trainer: Trainer, task: CodecTask) -> None:
        values, usage = task.meter.pull(), task.meter.pull_codebooks()
        task.keep_codebooks()
        now = time.monotonic()
        elapsed, batches = now - self._since[1], task.batches - self._since[0]
        rate, samples = batches / elapsed, self._samples
        self._since, self._samples = (task.batches, now), 0
        if not trainer.is_global_zero:
            return
        speed = samples * trainer.world_size / task.codec.sample_rate / elapsed
        values |= _mean_usage([one for one in usage if one.tokens]) | {
            "lr": task.learning_rate,
            "batches_per_second": rate,
            "audio_seconds_per_second": speed,
        }
        detail = {f"codebooks/usage_{i}": one.usage for i, one in enumerate(usage)}
        detail |= {f"codebooks/perplexity_{i}": one.perplexity for i, one in enumerate(usage)}
        _write(self.run_log, trainer, task, "train", values, detail)
        shown = [f"{rate:.2f} it/s", f"{speed:.0f} s audio/s"]
        shown += [f"{name} {values[name]:.3f}" for name in SHOWN if name in values]
        self.progress.show(trainer.global_step, "  ".join([*shown, f"usage {values['usage']:.0%}"]), rate)
        for sentence in self._collapse.warnings(task.batches, usage):
            self.progress.warn(sentence)

    def _report_skipped(self, trainer: Trainer) -> None:
        """List the files that could not be used, if there are new ones."""
        lines = trainer.datamodule.report()  # type: ignore[attr-defined]
        if lines and lines[0] != self._skipped and trainer.is_global_zero:
            self._skipped = lines[0]
            self.progress.warn("\n".join(lines))

    def on_train_end(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Take the progress bar down."""
        self.progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: CodecTask, exception: BaseException) -> None:  # type: ignore[override]
        """Take the progress bar down."""
        self.progress.stop()


class Validation(Callback):
    """Means over the validation clips: log, logger, best checkpoint.

    What Lightning validates before the first step, its check that all works, gives the row of step 0: the codec as the
    run begins with it. The last step is followed by a validation.

    Args:
        run_log: of the run.
        checkpoints: keep the best.
        progress: where to print.
    """

    def __init__(self, run_log: RunLog, checkpoints: Checkpoints, progress: ProgressLine) -> None:
        self.run_log = run_log
        self.checkpoints = checkpoints
        self.progress = progress
        self._meter: Meter | None = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Have the last step validated, wherever it falls."""
        if trainer.global_step >= trainer.max_steps:
            trainer.val_check_batch = 1

    def on_validation_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Forget the last validation."""
        self._meter = Meter(pl_module.codec.quantizer.codebook_sizes)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: CodecTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect one batch."""
        assert self._meter is not None
        self._meter.add({name: value for name, value in outputs.items() if value.ndim == 0})
        self._meter.count(outputs["codes"])

    def on_validation_end(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Report."""
        assert self._meter is not None
        values = _mean_over_ranks(trainer, self._meter.pull())
        usage = self._meter.pull_codebooks()
        values["usage"] = _mean_usage(usage)["usage"]
        values["least_usage"] = min((one.reach for one in usage), default=0.0)
        if not trainer.sanity_checking:
            pl_module.metrics = values
        if trainer.is_global_zero:
            _write(self.run_log, trainer, pl_module, "valid", values)
            text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.progress.print(f"valid {trainer.global_step}  {text}")
        if not trainer.sanity_checking:
            self.checkpoints.validated(trainer, values)


def _write(
    log: RunLog,
    trainer: Trainer,
    task: CodecTask,
    kind: str,
    values: dict[str, float],
    detail: dict[str, float] | None = None,
) -> None:
    """A row of the log, and with what only curves show, `detail`, one of every logger."""
    log.write(kind, trainer.global_step, task.batches, values)
    named = {f"{kind}/{name}": value for name, value in values.items()} | (detail or {})
    for logger in trainer.loggers:
        logger.log_metrics(named, trainer.global_step)


def _mean_usage(usage: list[CodebookStatistics]) -> dict[str, float]:
    count = max(1, len(usage))
    return {
        "usage": sum(one.usage for one in usage) / count,
        "perplexity": sum(one.perplexity for one in usage) / count,
    }


def _mean_over_ranks(trainer: Trainer, values: dict[str, float]) -> dict[str, float]:
    if trainer.world_size == 1:
        return values
    stacked = torch.tensor(list(values.values()), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(stacked)
    return dict(zip(values, (stacked / trainer.world_size).tolist(), strict=True))
