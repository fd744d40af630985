"""An evaluation that has been done, and the files that hold it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from codec import metrics
from codec.evaluate.score import Row
from codec.evaluate.summary import Table
from codec.system import atomic_write

PLAIN = ("system", "clip", "seconds", "payload_bytes", "container_bytes", "encode_seconds", "decode_seconds")


@dataclass(slots=True)
class Evaluation:
    """An evaluation that has been done.

    Attributes:
        rows: one for each clip and system that was scored.
        table: see `summary.summarise`.
        refused: systems that were not scored, with the reasons.
        warnings: sentences on figures that should not be trusted.
        details: everything else that the report shows.
        missing: metrics that cannot run here, with the reason.
        skipped: files that cannot be read, with the reason.
    """

    rows: list[Row]
    table: Table
    refused: dict[str, list[str]]
    warnings: list[str]
    details: dict[str, Any]
    missing: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def write_results(result: Evaluation, folder: Path) -> None:
    """Write `summary.json`, `clips.csv`, `details.json` and `summary.md`."""
    left_out = {
        "refused": result.refused,
        "missing_metrics": result.missing,
        "skipped_files": result.skipped,
        "warnings": result.warnings,
    }
    for name, text in (
        ("summary.json", _json(result.table)),
        ("clips.csv", _csv(result.rows)),
        ("details.json", _json(left_out | result.details)),
        ("summary.md", _markdown(result.table, result.refused)),
    ):
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _csv(rows: Sequence[Row]) -> str:
    """One line a clip and system, every metric a column."""
    names = list(dict.fromkeys(name for row in rows for name in (*row.scores, *row.excluded)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*PLAIN, "stability", *names, "excluded", "error", "note"])
    for row in rows:
        reasons = "; ".join(f"{name}: {why}" for name, why in row.excluded.items())
        values = [row.stability, *(row.scores.get(name) for name in names)]  # None is an empty cell
        writer.writerow([*(getattr(row, name) for name in PLAIN), *values, reasons, row.error, row.note])
    return text.getvalue()


def _markdown(table: Table, refused: Mapping[str, Sequence[str]]) -> str:
    """A table of the main figures, mean and 95% interval."""
    wanted = ["kbps", "kbps_payload", *metrics.METRICS]
    columns = [name for name in wanted if any(name in entry for entry in table.values())]
    lines = ["| system | " + " | ".join(columns) + " | clips |", "|" + " --- |" * (len(columns) + 2)]
    for system, entry in table.items():
        cells = [_cell(entry.get(name)) for name in columns]
        most = max((value["count"] for value in entry.values()), default=0)
        lines.append(f"| {system} | " + " | ".join(cells) + f" | {most} |")
    lines += [f"\n{system}: not scored: {'; '.join(reasons)}" for system, reasons in refused.items()]
    return "\n".join(lines) + "\n"


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return "-"
    digits = 2 if abs(entry["mean"]) >= 10 else 3
    low, high = entry["interval"]
    return f"{entry['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
