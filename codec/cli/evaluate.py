"""`codec eval`: codecs and baselines measured on a folder or manifest of clips."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import ConfigError

if TYPE_CHECKING:
    from codec.evaluate import Evaluation
    from codec.evaluate.run import Progress

SYSTEM = (
    "A model's name or path, with @N for its first N codebooks (default@6), or a baseline: original, resample:HZ, "
    "mulaw[:BITS], opus:KBPS, codec2:MODE, mp3:KBPS, aac:KBPS, encodec:KBPS."
)
CHANNEL = "Damage the tokens of models too: bsc:P, burst:P,L, gilbert:P,L, erasure:P; may be repeated."
Systems = Annotated[list[str], typer.Argument(metavar="SYSTEM...", help=SYSTEM)]


def evaluate(
    systems: Systems,
    data: Annotated[str, typer.Option(help="Folder of sound files, one file, or a .jsonl manifest.")],
    out: Annotated[str, typer.Option(help="Folder for summary.json, clips.csv and report.html.")],
    metrics: Annotated[
        str | None, typer.Option(help="Metrics, separated by commas; 'all' takes the slow ones too.")
    ] = None,
    speaker_model: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Speaker network, for the metric speaker_similarity.")
    ] = None,
    asr_model: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Speech recogniser, for the metric wer.")
    ] = None,
    channel: Annotated[list[str] | None, typer.Option(help=CHANNEL)] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Take these rows of a manifest only.")
    ] = None,
    rate: Annotated[
        int, typer.Option(min=8000, help="Everything is compared at this rate, in mono.")
    ] = 16000,
    seconds: Annotated[float | None, typer.Option(min=0.5, help="Of each clip, at most.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Clips at most, spread over the data.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one for each core by default.")] = None,
    checks: Annotated[
        bool, typer.Option(help="Refuse systems that shift, scale or cut the sound; else score and warn.")
    ] = True,
    memory: Annotated[
        bool, typer.Option("--memory", help="Measure peak memory in new processes too.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Start anew; otherwise go on.")] = False,
) -> None:
    """Measure codecs on the same clips, with real rates, intervals and a report."""
    from codec.evaluate import FAST, Options, evaluate
    from codec.metrics import METRICS

    names = FAST if metrics is None else tuple(METRICS) if metrics == "all" else tuple(metrics.split(","))
    folders = {"speaker_similarity": speaker_model, "wer": asr_model}
    models = {name: folder for name, folder in folders.items() if folder is not None}
    options = Options(
        metrics=tuple(dict.fromkeys([*names, *models])),
        models=models,
        channels=tuple(channel or ()),
        filters=row_filters(only),
        rate=rate,
        seconds=seconds,
        limit=limit,
        jobs=jobs,
        fresh=force,
        checks=checks,
        memory=memory,
    )
    with _progress() as progress:
        result = evaluate(systems, data, out, options, progress=progress)
    _show(result)
    typer.echo(f"{Path(out, 'report.html')}")
    if not result.table:
        raise typer.Exit(1)


def row_filters(only: list[str] | None) -> dict[str, object]:
    """What the rows of a manifest must have, from KEY=VALUE on the command line.

    Raises:
        ConfigError: it is written otherwise.
    """
    plain: dict[str, object] = {"true": True, "false": False}
    found: dict[str, object] = {}
    for text in only or []:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--only needs KEY=VALUE, not {text!r}")
        found[key] = plain.get(value.lower(), int(value) if value.isdecimal() else value)
    return found


def _show(result: Evaluation) -> None:
    """The main figures as a table on standard output, and on standard error all that was left out."""
    from rich.console import Console
    from rich.table import Table

    from codec.evaluate.summary import exclusions, failures
    from codec.metrics import METRICS

    columns = [
        name
        for name in ("kbps", "peak_mb", *METRICS)
        if any(name in entry for entry in result.table.values())
    ]
    shown = Table("system", box=None, header_style="bold")
    for name in columns:
        shown.add_column(name, justify="right")
    for system, entry in result.table.items():
        means = [entry.get(name, {}).get("mean") for name in columns]
        shown.add_row(system, *("-" if mean is None else f"{mean:.4g}" for mean in means))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
    for line in [
        *(f"{system} is not scored: {'; '.join(why)}" for system, why in result.refused.items()),
        *result.missing.values(),
        *(f"{name}: {why}" for name, why in result.skipped.items()),
        *failures(result.rows),
        *exclusions(result.table),
        *result.warnings,
    ]:
        typer.echo(f"codec: {line}", err=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("sanity checks", total=None)
        yield lambda done, total, name: shown.update(task, completed=done, total=total, description=name)
