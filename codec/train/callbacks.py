"""Reports of a run: rows of the log, collapsed codebooks, the progress line, validation."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from codec.train.checkpoints import Checkpoints
from codec.train.config import LogConfig
from codec.train.meter import CodebookUsage, Meter
from codec.train.task import CodecTask

_GRACE = 200  # batches in which codebooks and networks have not trained enough to be called collapsed
_PROBE = 3  # batches of which the first warms up and the others are timed
SHOWN = ("mel", "adv", "disc")  # terms of the progress line, where the objective has them


class Monitor(Callback):
    """Reads the meter every few batches: logger, `log.jsonl`, progress, warnings.

    Args:
        folder: of `log.jsonl`, one JSON object per row.
        config: how often, and when a codebook counts as collapsed.
        console: where to print.
    """

    def __init__(self, folder: Path, config: LogConfig, console: Console) -> None:
        self.path = folder / "log.jsonl"
        self.config = config
        self.console = console
        self.total = 0
        self.seconds = 0.0
        self._start: float | None = None
        self._last_report = ""
        self._warned: dict[int, int] = {}
        self._bar: Progress | None = None
        self._since = (0, 0.0, 0.0)
        self._seen: list[float] = []

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training so far, interruptions left out."""
        return {"seconds": self._spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the seconds back."""
        self.seconds = state_dict["seconds"]

    def on_fit_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Open the log; rows that a killed run wrote after its last checkpoint are dropped."""
        if trainer.is_global_zero:
            done = pl_module.batches
            kept = [row for row in read_log(self.path) if done and row["batch"] <= done]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def on_train_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Take what the run is compared with, start clock and progress line."""
        pl_module.keep_codebooks()
        self.total = trainer.max_steps
        self._last_report = (trainer.datamodule.report() or [""])[0]  # type: ignore[attr-defined]
        self._start = time.monotonic()
        self._since = (pl_module.batches, time.monotonic(), 0.0)
        if trainer.is_global_zero and self.console.is_terminal:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console)
            self._bar.start()
            self._bar.add_task("train", total=self.total, completed=trainer.global_step, shown="")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: CodecTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count audio; write a row when it is time."""
        since, start, audio = self._since
        self._since = (since, start, audio + batch["audio"].shape[0] * batch["audio"].shape[-1])
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step)
        if len(self._seen) < _PROBE:
            self._seen.append(time.monotonic())
            self._expected_time(trainer, pl_module)
        if pl_module.batches % self.config.every == 0:
            self._row(trainer, pl_module)
        if pl_module.batches % pl_module.batches_per_epoch == 0:
            self._skipped(trainer)

    def _expected_time(self, trainer: Trainer, task: CodecTask) -> None:
        """After a few batches, say how long the run will take."""
        left = self.total - trainer.global_step
        if len(self._seen) < _PROBE or left < 10 * _PROBE or not trainer.is_global_zero:
            return
        each = (self._seen[-1] - self._seen[0]) / (_PROBE - 1)
        text = f"expected: {duration(left * each)} for {left} steps of {each:.2g} s, without validation"
        if task.batches < task.train_config.d_start:
            text += f"; longer steps from {task.train_config.d_start} on, when the discriminators join"
        self.console.print(text, highlight=False, soft_wrap=True)

    def _row(self, trainer: Trainer, task: CodecTask) -> None:
        since, start, audio = self._since
        now = time.monotonic()
        values = task.meter.pull()
        codebooks = task.meter.pull_codebooks()
        task.keep_codebooks()
        if not trainer.is_global_zero:
            self._since = (task.batches, now, 0.0)
            return
        elapsed = now - start
        rate = (task.batches - since) / elapsed
        speed = audio * trainer.world_size / task.codec.sample_rate / elapsed
        used = [codebook for codebook in codebooks if codebook.tokens]
        values |= {
            "usage": sum(codebook.used / codebook.size for codebook in used) / max(1, len(used)),
            "perplexity": sum(codebook.perplexity for codebook in used) / max(1, len(used)),
            "lr": task._optimizers()[0].param_groups[0]["lr"],
            "batches_per_second": rate,
            "audio_seconds_per_second": speed,
        }
        self.write(task, "train", values, trainer.global_step)
        for logger in trainer.loggers:
            detail = {
                f"codebooks/usage_{i}": codebook.used / codebook.size for i, codebook in enumerate(codebooks)
            }
            detail |= {
                f"codebooks/perplexity_{i}": codebook.perplexity for i, codebook in enumerate(codebooks)
            }
            logger.log_metrics({f"train/{k}": v for k, v in values.items()} | detail, trainer.global_step)
        shown = [f"{rate:.2f} it/s", f"{speed:.0f} s audio/s"]
        shown += [f"{name} {values[name]:.3f}" for name in SHOWN if name in values]
        shown.append(f"usage {values['usage']:.0%}")
        self._show(trainer.global_step, "  ".join(shown), rate)
        self._watch(task.batches, codebooks)
        self._since = (task.batches, time.monotonic(), 0.0)

    def _skipped(self, trainer: Trainer) -> None:
        """After a pass over the data, list the files that could not be used, if there are new ones."""
        lines = trainer.datamodule.report()  # type: ignore[attr-defined]
        if lines and lines[0] != self._last_report and trainer.is_global_zero:
            self._last_report = lines[0]
            self.console.print("\n".join(lines), style="yellow", highlight=False, soft_wrap=True)

    def _show(self, step: int, text: str, rate: float) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, shown=text)
        else:
            left = duration((self.total - step) / rate)
            self.console.print(
                f"step {step}/{self.total}  {text}  {left} left", highlight=False, soft_wrap=True
            )

    def _watch(self, batches: int, codebooks: list[CodebookUsage]) -> None:
        """Name the codebooks that have collapsed, again after every ten rows in which they stay so."""
        causes: dict[str, list[int]] = {}
        for index, codebook in enumerate(codebooks):
            if batches < _GRACE or not codebook.tokens or codebook.share >= self.config.collapse:
                self._warned.pop(index, None)
                continue
            rows = self._warned.get(index, 0)
            self._warned[index] = rows + 1
            if rows % 10 == 0:
                causes.setdefault(_cause(index, codebooks, self.config.collapse), []).append(index)
        for cause, found in causes.items():
            detail = ", ".join(
                f"{i} ({codebooks[i].used} of {codebooks[i].size} codes in {codebooks[i].tokens} tokens, "
                f"perplexity {codebooks[i].perplexity:.1f})"
                for i in found
            )
            text = f"collapsed codebook{'s' * (len(found) > 1)} {detail}: {cause}"
            self.console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def write(self, task: CodecTask, kind: str, values: dict[str, float], step: int) -> None:
        """Append a row to `log.jsonl`."""
        values = values | {"seconds": self._spent()}
        row = {"kind": kind, "step": step, "batch": task.batches} | {
            k: round(v, 6) for k, v in values.items()
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def _spent(self) -> float:
        """Seconds of training, which begins after the first validation."""
        return self.seconds + (0.0 if self._start is None else time.monotonic() - self._start)

    def close(self) -> None:
        """Take the progress bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Take the progress bar down."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: CodecTask, exception: BaseException) -> None:  # type: ignore[override]
        """Take the progress bar down."""
        self.close()


class Validation(Callback):
    """Means over the validation clips: logger, `log.jsonl`, best checkpoint.

    What Lightning validates before the first step, its check that all works, gives the row of step 0: the codec as the
    run begins with it.

    Args:
        monitor: writes the row.
        checkpoints: keep the best.
    """

    def __init__(self, monitor: Monitor, checkpoints: Checkpoints) -> None:
        self.monitor = monitor
        self.checkpoints = checkpoints
        self._meter: Meter | None = None

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
        codebooks = self._meter.pull_codebooks()
        values["usage"] = sum(codebook.used / codebook.size for codebook in codebooks) / max(
            1, len(codebooks)
        )
        values["least_usage"] = min((codebook.share for codebook in codebooks), default=0.0)
        if not trainer.sanity_checking:
            pl_module.metrics = values
        if trainer.is_global_zero:
            step = trainer.global_step
            self.monitor.write(pl_module, "valid", values, step)
            for logger in trainer.loggers:
                logger.log_metrics({f"valid/{name}": value for name, value in values.items()}, step)
            text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
            self.monitor.console.print(f"valid {step}  {text}", highlight=False, soft_wrap=True)
        if not trainer.sanity_checking:
            self.checkpoints.validated(trainer, values)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Rows of a `log.jsonl`; a last line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def duration(seconds: float) -> str:
    """Such as 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{max(0, round(seconds))} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def make_console() -> Console:
    """On standard error, so that a terminal shows a bar and a file gets plain lines."""
    return Console(file=sys.stderr)


def _cause(index: int, codebooks: list[CodebookUsage], limit: float) -> str:
    """The likely reason of a collapse, from what the other codebooks do."""
    codebook = codebooks[index]
    if index and codebooks[0].share >= limit:
        return "likely the codebooks before it leave too little to quantize, or quantizer dropout seldom trains it"
    if codebook.perplexity < 2:
        return "likely the encoder's output is nearly constant: the learning rate is too high or no gradient reaches it"
    return "likely its codes lie far from the latents: check its init and that dead codes are replaced"


def _mean_over_ranks(trainer: Trainer, values: dict[str, float]) -> dict[str, float]:
    if trainer.world_size == 1:
        return values
    stacked = torch.tensor(list(values.values()), device=trainer.strategy.root_device)
    torch.distributed.all_reduce(stacked)
    return dict(zip(values, (stacked / trainer.world_size).tolist(), strict=True))
