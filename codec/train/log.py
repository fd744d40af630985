"""`log.jsonl`: one JSON object for each row, and the seconds of training so far."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class RunLog:
    """The log of a run in its folder.

    Args:
        folder: of `log.jsonl`.

    Attributes:
        before: seconds of training in earlier processes, interruptions left out.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"
        self.before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Seconds of training, which begins after the first validation."""
        return self.before + (0.0 if self._start is None else time.monotonic() - self._start)

    def start_clock(self) -> None:
        """Training begins."""
        self._start = time.monotonic()

    def keep(self, batches: int) -> None:
        """Drop the rows that a killed run wrote after its checkpoint at `batches`; all of them for a fresh run."""
        kept = [row for row in self.rows() if batches and row["batch"] <= batches]
        self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def write(self, kind: str, step: int, batch: int, values: dict[str, float]) -> None:
        """Append a row."""
        values = {name: round(value, 6) for name, value in (values | {"seconds": self.seconds}).items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step, "batch": batch} | values) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """All rows; a last line that a kill cut short is left out."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found
