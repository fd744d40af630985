"""From rows to tables: means with intervals, statistics of tokens, comparisons, and what was left out."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from codec import metrics
from codec.evaluate.score import Checked, Row
from codec.metrics import codebook_statistics, count
from codec.metrics.statistics import Estimate, estimate, paired

# what is measured of every system besides the metrics: name -> title, unit, more is better
RATES = {
    "kbps": ("bit rate of the file", "kbps", False),
    "kbps_payload": ("bit rate of the payload", "kbps", False),
    "rtf_encode": ("encoding, times faster than real time", "x", True),
    "rtf_decode": ("decoding, times faster than real time", "x", True),
    "stability": ("tokens that survive decoding and encoding again", "", True),
    "peak_mb": ("peak memory of a new process that codes one clip", "MB", False),
    "token_rate": ("tokens per second", "1/s", False),
}
UNCODED = "the clip could not be coded"
Table = dict[str, dict[str, dict[str, Any]]]


def summarise(rows: Sequence[Row], folder: Path) -> Table:
    """`{system: {name: {"mean", "interval", "count", "excluded"}}}` for metrics and rates, systems as they appear."""
    table: Table = {}
    for system, group in _by_system(rows).items():
        good = [row for row in group if not row.error]
        table[system] = entry = {}
        names = dict.fromkeys(name for row in group for name in (*row.scores, *row.excluded))
        for name in names:
            values = [row.scores[name] for row in good if name in row.scores]
            reasons = Counter(row.excluded[name] for row in good if name in row.excluded)
            reasons.update([UNCODED] * (len(group) - len(good)))
            entry[name] = _entry(estimate(values) if values else None) | {"excluded": dict(reasons)}
        sounding = [row for row in good if row.seconds]
        if not sounding:
            continue
        seconds = [row.seconds for row in sounding]
        files = [8e-3 * row.container_bytes / row.seconds for row in sounding]
        payloads = [8e-3 * row.payload_bytes / row.seconds for row in sounding]
        entry["kbps"] = _entry(estimate(files, seconds))
        entry["kbps_payload"] = _entry(estimate(payloads, seconds))
        for side in ("encode", "decode"):
            spent = [getattr(row, f"{side}_seconds") for row in sounding]
            if min(spent) > 0:
                factors = [row.seconds / time for row, time in zip(sounding, spent, strict=True)]
                entry[f"rtf_{side}"] = _entry(estimate(factors, spent))
        stable = [row.stability for row in good if row.stability is not None]
        if stable:
            entry["stability"] = _entry(estimate(stable))
        tokens = [_tokens(folder, row)[0].size / row.seconds for row in sounding if row.tokens]
        if tokens:
            entry["token_rate"] = _entry(estimate(tokens, seconds))
    return table


def codebooks(rows: Sequence[Row], folder: Path) -> dict[str, list[dict[str, float]]]:
    """For each system with tokens: usage, perplexity and entropy of every codebook over all clips."""
    found: dict[str, list[dict[str, float]]] = {}
    for system, group in _by_system(rows).items():
        counts: list[np.ndarray] | None = None
        for row in group:
            if row.tokens:
                codes, sizes = _tokens(folder, row)
                new = count(codes, sizes)
                counts = new if counts is None else [a + b for a, b in zip(counts, new, strict=True)]
        if counts:
            found[system] = [
                asdict(one) | {"usage": one.usage, "perplexity": one.perplexity}
                for one in map(codebook_statistics, counts)
            ]
    return found


def compare(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Every pair of systems on every metric: the difference on their common clips."""
    groups = _by_system(rows)
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    scores = {
        system: {name: {row.clip: row.scores[name] for row in group if name in row.scores} for name in names}
        for system, group in groups.items()
    }
    found = []
    for a, b in itertools.combinations(groups, 2):
        for name in names:
            shared = [clip for clip in scores[a][name] if clip in scores[b][name]]
            if shared:
                test = paired([scores[a][name][c] for c in shared], [scores[b][name][c] for c in shared])
                found.append({"a": a, "b": b, "metric": name} | asdict(test))
    return found


def rising(table: Table, families: Mapping[str, str]) -> list[str]:
    """Sentences on families in which more bits gave less quality, by PESQ-WB or, where there is none, mel distance."""
    found = []
    for family in dict.fromkeys(families.values()):
        members = [
            system for system in table if families.get(system) == family and "kbps_payload" in table[system]
        ]
        members.sort(key=lambda system: table[system]["kbps_payload"]["mean"])
        for low, high in itertools.pairwise(members):
            for name in ("pesq_wb", "mel_distance"):
                first, second = (table[system].get(name, {}).get("mean") for system in (low, high))
                if first is None or second is None:
                    continue
                better = second >= first if metrics.METRICS[name].higher_is_better else second <= first
                if not better:
                    found.append(
                        f"{high} has more bits than {low} and a worse {name}: {second:.3f} after {first:.3f}"
                    )
                break
    return found


def failures(rows: Sequence[Row]) -> list[str]:
    """One sentence for each clip and reason why it could not be coded, with the systems that failed."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.error:
            found.setdefault((row.clip, row.error), []).append(row.system)
    systems = {row.system for row in rows}
    return [f"{clip} is left out {_whose(names, systems)}: {error}" for (clip, error), names in found.items()]


def exclusions(table: Table) -> list[str]:
    """One sentence for each reason why metrics say nothing about some clips."""
    found: dict[str, tuple[list[int], dict[str, None], dict[str, None]]] = {}
    for system, entry in table.items():
        for name, value in entry.items():
            for why, number in value.get("excluded", {}).items():
                if why != UNCODED:  # see `failures`
                    numbers, names, systems = found.setdefault(why, ([], {}, {}))
                    numbers.append(number)
                    names[name] = systems[system] = None
    return [
        f"{_span(numbers)} without {', '.join(names)} {_whose(list(systems), set(table))}: {why}"
        for why, (numbers, names, systems) in found.items()
    ]


def check_notes(checks: Mapping[str, Checked], rate: int) -> dict[str, dict[str, Any]]:
    """What the sanity checks found for every system, for the report."""
    return {
        system: {
            "delay_ms": 1000 * checked.calibration.delay / rate,
            "level_db": checked.calibration.level,
            "gain_db": checked.calibration.gain,
            "length_samples": checked.calibration.length,
            "refused": list(checked.calibration.refused),
        }
        for system, checked in checks.items()
    }


def _whose(names: Sequence[str], everybody: set[str]) -> str:
    return "for all systems" if set(names) == everybody else f"for {', '.join(names)}"


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low} clip{'s' * (low > 1)}" if low == high else f"{low} to {high} clips"


def _entry(value: Estimate | None) -> dict[str, Any]:
    if value is None:
        return {"mean": None, "interval": None, "count": 0}
    return {"mean": value.mean, "interval": [value.low, value.high], "count": value.count}


def _by_system(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.system, []).append(row)
    return groups


def _tokens(folder: Path, row: Row) -> tuple[np.ndarray, tuple[int, ...]]:
    with np.load(folder / row.tokens) as stored:
        return stored["codes"], tuple(int(size) for size in stored["sizes"])
