"""An evaluation from end to end: sanity checks, scores in parallel processes, files; it can be resumed."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from codec import __version__, metrics, system
from codec.distort import TokenChannel
from codec.errors import ConfigError
from codec.evaluate import summary
from codec.evaluate.baselines import BASELINE_KINDS
from codec.evaluate.clips import find_clips
from codec.evaluate.damage import Damaged, describe
from codec.evaluate.memory import peak_memory
from codec.evaluate.options import Options
from codec.evaluate.parse import parse
from codec.evaluate.plots import plot
from codec.evaluate.report import write_report
from codec.evaluate.results import Evaluation, write_results
from codec.evaluate.score import Checked, Row, Task, check_system, score, start_worker

Progress = Callable[[int, int, str], None]
Pool = Callable[[Callable[..., Any], Sequence[Any]], Iterator[Any]]
EXAMPLES = 2  # clips to listen to in the report


@dataclass(frozen=True, slots=True)
class Contender:
    """A system as a row of the table.

    Attributes:
        spec: as given.
        channel: that damages its codes; empty for none.
        name: in the table.
        family: see `System`.
        damaged: what the channel does, if there is one.
    """

    spec: str
    channel: str
    name: str
    family: str
    damaged: Damaged | None


def evaluate(
    systems: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: Options | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Score systems on clips; write `summary.json`, `clips.csv`, `details.json`, `summary.md`, `report.html`, `plots`.

    Args:
        systems: names, see `parse`.
        data: a folder, a sound file or a `.jsonl` manifest.
        out: folder for the results; what is there already and still holds is not done again.
        options: how.
        progress: called with the number of finished tasks, of all tasks, and the last one's name.

    Raises:
        ConfigError: a name is wrong, or there is nothing to score.
    """
    started = time.time()
    options = options or Options()
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a folder for the results")
    contenders = _contenders(systems, options.channels)
    missing = {
        name: why
        for name in options.metrics
        if (why := metrics.get(name, model=options.models.get(name)).missing())
    }
    options = options.without(missing)
    clips, skipped = find_clips(data, options.filters, options.limit)
    examples = {clip.name for clip in clips[:: max(1, len(clips) // EXAMPLES)][:EXAMPLES]}
    store = folder / "data"
    store.mkdir(parents=True, exist_ok=True)
    with _pool(options.jobs or os.cpu_count() or 1) as run:
        calls = [(one.spec, one.channel, clips, options.rate) for one in contenders]
        checks = {checked.system: checked for checked in run(check_system, calls)}
        scored = {name for name, checked in checks.items() if checked.may_be_scored(strict=options.checks)}
        tasks = [
            Task(
                one.spec,
                one.channel,
                clip,
                options,
                checks[one.name].calibration,
                str(store),
                clip.name in examples,
            )
            for one in contenders
            if one.name in scored
            for clip in clips
        ]
        keys = [task.key(checks[task.system].identity) for task in tasks]
        rows = _score(run, dict(zip(keys, tasks, strict=True)), folder, options, progress)
    result = _collect([rows[key] for key in keys], store, contenders, checks, scored)
    result.missing, result.skipped = missing, skipped
    if options.memory:
        for spec in dict.fromkeys(systems):
            name = parse(spec).spec
            if name in result.table and (peak := peak_memory(spec, clips, options)) is not None:
                result.table[name]["peak_mb"] = {"mean": peak, "interval": [peak, peak], "count": 1}
    result.details |= {
        "checks": summary.check_notes(checks, options.rate),
        "examples": [clip.name for clip in clips if clip.name in examples],
        "settings": {"data": Path(data).name, "clips": len(clips), **options.described()},
        "machine": machine(),
        "wall_seconds": time.time() - started,
    }
    write_results(result, folder)
    families = {one.name: one.family for one in contenders}
    plot(result.table, families, _damaged(contenders), folder / "plots")
    coded = {row.clip for row in result.rows if row.example}  # by any system
    write_report(result, folder, [clip for clip in clips if clip.name in coded], options.rate)
    return result


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return system.machine() | {"torch": torch.__version__, "codec": __version__}


def _contenders(systems: Sequence[str], channels: Sequence[str]) -> list[Contender]:
    """Every system, then every model behind every channel."""
    plain = {spec: parse(spec) for spec in systems}
    contenders = [Contender(spec, "", one.spec, one.family, None) for spec, one in plain.items()]
    models = [spec for spec, one in plain.items() if not isinstance(one, BASELINE_KINDS)]
    if channels and not models:
        raise ConfigError("a channel damages the tokens of models, and no model is among the systems")
    for spec, channel in itertools.product(models, dict.fromkeys(channels)):
        one = parse(spec, channel)
        damaged = describe(spec, TokenChannel.parse(channel))
        contenders.append(Contender(spec, channel, one.spec, one.family, damaged))
    return contenders


def _damaged(contenders: Sequence[Contender]) -> dict[str, Damaged]:
    return {one.name: one.damaged for one in contenders if one.damaged is not None}


def _score(
    run: Pool, tasks: Mapping[str, Task], folder: Path, options: Options, progress: Progress | None
) -> dict[str, Row]:
    """Rows by key, those of an earlier run included; each is written down as it comes."""
    log = folder / "clips.jsonl"
    if options.fresh:
        log.unlink(missing_ok=True)
    rows = _finished(log, folder / "data", options.metrics)
    todo = [(task,) for key, task in tasks.items() if key not in rows]
    done = len(tasks) - len(todo)
    if progress is not None:
        progress(done, len(tasks), "")
    with open(log, "a", encoding="utf-8") as lines:
        for row in run(score, todo):
            rows[row.key] = row
            lines.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
            lines.flush()
            done += 1
            if progress is not None:
                progress(done, len(tasks), f"{row.system} {row.clip}")
    return rows


def _finished(log: Path, store: Path, wanted: Sequence[str]) -> dict[str, Row]:
    """Rows of an earlier run by their key, as far as they have what is wanted now."""
    rows: dict[str, Row] = {}
    if not log.exists():
        return rows
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            row = Row(**json.loads(line))
        except (ValueError, TypeError):
            continue  # a line that was cut when the run was stopped
        kept = not row.tokens or (store / row.tokens).exists()
        if kept and not row.error and all(name in row.scores or name in row.excluded for name in wanted):
            rows[row.key] = row
    return rows


def _collect(
    rows: list[Row],
    store: Path,
    contenders: Sequence[Contender],
    checks: Mapping[str, Checked],
    scored: set[str],
) -> Evaluation:
    damaged = _damaged(contenders)
    table = summary.summarise(rows, store)
    families = {one.name: one.family for one in contenders}
    # what is wrong with a model is reported once, not again behind every channel
    failed = {
        name: list(checked.calibration.refused)
        for name, checked in checks.items()
        if name not in damaged
        or checked.calibration.refused != checks[parse(damaged[name].base).spec].calibration.refused
    }
    warnings = summary.rising(table, families)
    warnings += [
        f"{name} fails a sanity check: {'; '.join(why)}"
        for name, why in failed.items()
        if why and name in scored
    ]
    details = {
        "families": {name: families[name] for name in table},
        "damaged": {name: asdict(damaged[name]) for name in table if name in damaged},
        "codebooks": summary.codebooks([row for row in rows if row.system not in damaged], store),
        "comparisons": summary.compare(rows),
    }
    refused = {name: why for name, why in failed.items() if name not in scored}
    return Evaluation(rows, table, refused, warnings, details)


@contextmanager
def _pool(jobs: int) -> Iterator[Pool]:
    """A function that runs calls in processes and yields results as they come; in this process for one job."""
    if jobs == 1:
        yield lambda work, calls: (work(*call) for call in calls)
        return
    executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=start_worker)

    def run(work: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        futures = [executor.submit(work, *call) for call in calls]
        for future in as_completed(futures):
            yield future.result()

    try:
        yield run
    finally:
        executor.shutdown(cancel_futures=True)
