"""An evaluation from end to end: gates, scores in parallel processes, files; it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from codec import __version__, metrics, native, system
from codec.errors import ConfigError
from codec.evaluate import clips as clip_lists
from codec.evaluate import summary
from codec.evaluate.channel import Channel
from codec.evaluate.clips import Clip
from codec.evaluate.damage import Damaged, describe
from codec.evaluate.gates import Calibration
from codec.evaluate.memory import peak_memory
from codec.evaluate.parse import parse, takes_channel
from codec.evaluate.plots import plot
from codec.evaluate.report import write_report
from codec.evaluate.score import Row, Task, calibrate_system, score, start_worker, to_json

Progress = Callable[[int, int, str], None]
FAST = tuple(name for name in metrics.METRICS if name not in metrics.SLOW)
EXAMPLES = 2  # clips that can be heard in the report


@dataclass(slots=True)
class Result:
    """An evaluation that has been done.

    Attributes:
        rows: one for each clip and system that was scored.
        table: see `summary.summarise`.
        refused: systems that were not scored, with the reasons.
        missing: metrics that cannot run here, with the reason.
        skipped: files that cannot be read, with the reason.
        warnings: sentences on figures that should not be trusted.
        details: everything else that the report shows.
    """

    rows: list[Row]
    table: summary.Table
    refused: dict[str, list[str]]
    missing: dict[str, str]
    skipped: dict[str, str]
    warnings: list[str]
    details: dict[str, Any] = field(default_factory=dict)


def evaluate(
    systems: Sequence[str],
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    names: Sequence[str] = FAST,
    models: Mapping[str, str] | None = None,
    channels: Sequence[str] = (),
    filters: Mapping[str, object] | None = None,
    rate: int = 16000,
    seconds: float | None = None,
    limit: int | None = None,
    jobs: int | None = None,
    fresh: bool = False,
    gates: bool = True,
    memory: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Score systems on clips; write `summary.json`, `clips.csv`, `details.json`, `summary.md`, `report.html`, `plots`.

    Args:
        systems: names, see `parse`.
        data: a folder, a sound file or a `.jsonl` manifest.
        out: folder for the results; what is there already and still holds is not done again.
        names: of metrics.
        models: folder of its network for each metric that needs one: `speaker_similarity`, `wer`.
        channels: that damage the tokens of models; each gives a row besides the undamaged one.
        filters: values that a manifest's rows must have.
        rate: at which everything is compared, in hertz, mono.
        seconds: of each clip at most, from its start.
        limit: so many clips at most, spread over the data.
        jobs: processes; by default one for each core; 1 works in this process.
        fresh: do everything again.
        gates: refuse systems that fail a gate; else they are scored with a warning.
        memory: measure the peak memory of every system in a new process too.
        progress: called with the number of finished tasks, of all tasks, and the last one's name.

    Raises:
        ConfigError: a name is wrong, or there is nothing to score.
    """
    started = time.time()
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: give a folder for the results")
    specs = [(spec, "") for spec in dict.fromkeys(systems)]
    specs += [(spec, c) for spec, _ in specs for c in dict.fromkeys(channels) if takes_channel(spec)]
    if channels and not any(channel for _, channel in specs):
        raise ConfigError("a channel damages the tokens of models, and no model is among the systems")
    families = {(system := parse(*spec)).spec: system.family for spec in specs}
    damaged = {parse(*spec).spec: describe(spec[0], Channel.parse(spec[1])) for spec in specs if spec[1]}
    models = models or {}
    missing = {name: why for name in names if (why := metrics.get(name, model=models.get(name)).missing())}
    wanted = tuple(name for name in names if name not in missing)
    clips, skipped = clip_lists.find(data, filters, limit)
    store = folder / "data"
    store.mkdir(parents=True, exist_ok=True)
    log = folder / "clips.jsonl"
    done = {} if fresh else _finished(log, store, wanted)
    if fresh:
        log.unlink(missing_ok=True)
    with _pool(jobs or os.cpu_count() or 1) as run:
        calibrations: dict[str, Calibration] = {}
        identities: dict[str, str] = {}
        judged = [(spec, channel, clips, rate) for spec, channel in specs]
        for name, identity, calibration in run(calibrate_system, judged):
            calibrations[name], identities[name] = calibration, identity
        scored = {
            name for name, c in calibrations.items() if not c.refused or (identities[name] and not gates)
        }
        examples = {clip.name for clip in clips[:: max(1, len(clips) // EXAMPLES)][:EXAMPLES]}
        tasks = []
        for spec, channel in specs:
            name = parse(spec, channel).spec
            if name not in scored:
                continue
            for clip in clips:
                task = Task(
                    spec,
                    channel,
                    clip,
                    rate,
                    seconds,
                    wanted,
                    tuple(sorted(models.items())),
                    calibrations[name],
                    str(store),
                    clip.name in examples,
                )
                tasks.append((task, task.key(identities[name])))
        todo = [(task,) for task, key in tasks if key not in done]
        if progress is not None:
            progress(len(tasks) - len(todo), len(tasks), "")
        with open(log, "a", encoding="utf-8") as lines:
            for index, row in enumerate(run(score, todo), len(tasks) - len(todo) + 1):
                done[row.key] = row
                lines.write(json.dumps(to_json(row), ensure_ascii=False) + "\n")
                lines.flush()
                if progress is not None:
                    progress(index, len(tasks), f"{row.system} {row.clip}")
    rows = [done[key] for _, key in tasks]
    # what is wrong with a model is told once, not again behind every channel
    told = {
        name: list(c.refused)
        for name, c in calibrations.items()
        if name not in damaged or c.refused != calibrations[parse(damaged[name].base).spec].refused
    }
    refused = {name: why for name, why in told.items() if name not in scored}
    result = _collect(rows, store, families, damaged, refused, missing, skipped)
    if memory:
        for spec in dict.fromkeys(systems):
            name = parse(spec).spec
            if name in result.table and (peak := peak_memory(spec, clips, rate, seconds)) is not None:
                result.table[name]["peak_mb"] = {"mean": peak, "interval": [peak, peak], "count": 1}
    failed = {name: why for name, why in told.items() if why and name in scored}
    result.warnings += [f"{name} fails a gate: {'; '.join(why)}" for name, why in failed.items()]
    result.details |= {
        "gates": summary.gate_notes(calibrations, rate),
        "examples": [clip.name for clip in clips if clip.name in examples],
        "settings": {
            "data": Path(data).name,
            "clips": len(clips),
            "rate": rate,
            "seconds": seconds,
            "metrics": list(wanted),
            "models": {name: Path(folder).name for name, folder in models.items()},
            "jobs": jobs or os.cpu_count(),
        },
        "machine": machine(),
        "wall_seconds": time.time() - started,
    }
    _write(result, folder)
    plot(result.table, families, damaged, folder / "plots")
    write_report(
        result, folder, [clip for clip in clips if clip.name in examples and not _unread(rows, clip)], rate
    )
    return result


def _unread(rows: Sequence[Row], clip: Clip) -> bool:
    """Whether no system could do anything with the clip."""
    return not any(row.clip == clip.name and row.example for row in rows)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    return system.machine() | {
        "torch": torch.__version__,
        "codec": __version__,
        "native": native.describe(),
    }


def _collect(
    rows: list[Row],
    store: Path,
    families: Mapping[str, str],
    damaged: Mapping[str, Damaged],
    refused: dict[str, list[str]],
    missing: dict[str, str],
    skipped: dict[str, str],
) -> Result:
    table = summary.summarise(rows, store)
    details = {
        "families": {system: families[system] for system in table},
        "damaged": {system: asdict(damaged[system]) for system in table if system in damaged},
        "books": summary.books([row for row in rows if row.system not in damaged], store),
        "comparisons": summary.compare(rows),
    }
    return Result(rows, table, refused, missing, skipped, summary.rising(table, families), details)


def _write(result: Result, folder: Path) -> None:
    summary.write_json(result.table, folder / "summary.json")
    summary.write_csv(result.rows, folder / "clips.csv")
    left_out = {
        "refused": result.refused,
        "missing_metrics": result.missing,
        "skipped_files": result.skipped,
        "warnings": result.warnings,
    }
    summary.write_json(left_out | result.details, folder / "details.json")
    (folder / "summary.md").write_text(summary.markdown(result.table, result.refused), encoding="utf-8")


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


@contextmanager
def _pool(jobs: int) -> Iterator[Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]]:
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
