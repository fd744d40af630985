"""How an evaluation is done."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codec import metrics

FAST = tuple(name for name in metrics.METRICS if name not in metrics.SLOW)


@dataclass(frozen=True, slots=True)
class Options:
    """How an evaluation is done.

    Attributes:
        metrics: names.
        models: folder of its network for each metric that needs one: `speaker_similarity`, `wer`.
        channels: that damage the codes of models; each gives a row besides the undamaged one.
        filters: values that a manifest's rows must have.
        rate: at which everything is compared, in hertz, mono.
        seconds: of each clip at most, from its start.
        limit: clips at most, spread over the data.
        jobs: processes; by default one for each core; 1 works in this process.
        fresh: do everything again.
        checks: refuse systems that fail a sanity check; else they are scored with a warning.
        memory: measure the peak memory of every system in a new process too.
    """

    metrics: tuple[str, ...] = FAST
    models: Mapping[str, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    filters: Mapping[str, object] | None = None
    rate: int = 16000
    seconds: float | None = None
    limit: int | None = None
    jobs: int | None = None
    fresh: bool = False
    checks: bool = True
    memory: bool = False

    def without(self, missing: Container[str]) -> Options:
        """The same without some metrics."""
        return replace(self, metrics=tuple(name for name in self.metrics if name not in missing))

    def described(self) -> dict[str, Any]:
        """For the report."""
        return {
            "rate": self.rate,
            "seconds": self.seconds,
            "metrics": list(self.metrics),
            "models": {name: Path(folder).name for name, folder in self.models.items()},
            "jobs": self.jobs or os.cpu_count(),
        }
