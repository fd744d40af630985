"""The curves of an evaluation as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from codec import metrics
from codec.evaluate.damage import Damaged, curves
from codec.evaluate.summary import Table

MOST_KBPS = 100  # uncompressed systems would flatten the picture
Point = tuple[float, float, float, float]  # x, mean, and the ends of its interval


def plot(table: Table, families: dict[str, str], damaged: dict[str, Damaged], folder: Path) -> None:
    """Every metric against the rate, and against the damage of each kind of channel, with 95% intervals.

    Args:
        table: see `summary.summarise`.
        families: of every system; those of one family make a line.
        damaged: the systems behind a channel.
        folder: for `rate_METRIC.png` and `damage_CHANNEL_METRIC.png`.
    """
    folder.mkdir(exist_ok=True)
    whole = [system for system in table if system not in damaged]
    for name, metric in metrics.METRICS.items():
        lines: dict[str, list[Point]] = {}
        for family in dict.fromkeys(families[system] for system in whole):
            members = [table[system] for system in whole if families[system] == family]
            points = [_point(e, name, e["kbps_payload"]["mean"]) for e in members if "kbps_payload" in e]
            found = sorted(point for point in points if point is not None)
            if found and found[0][0] <= MOST_KBPS:
                lines[family] = found
        _draw(lines, folder / f"rate_{name}.png", "kbps of the payload", metric, _octaves)
        for channel, systems in curves(table, damaged, name).items():
            shares = sorted({share for points in systems.values() for share, _ in points if share})
            zero = shares[0] / 5
            lines = {
                line: [_checked(_point(table[system], name, share or zero)) for share, system in points]
                for line, points in systems.items()
            }
            what = f"{'packets lost' if channel == 'erasure' else 'bits flipped'}, channel {channel}"
            path = folder / f"damage_{channel.replace(',', '_')}_{name}.png"
            _draw(lines, path, what, metric, partial(_shares, ticks=[zero, *shares]))


def _point(entry: dict[str, Any], name: str, x: float) -> Point | None:
    value = entry.get(name, {})
    return None if value.get("mean") is None else (x, value["mean"], *value["interval"])


def _checked(point: Point | None) -> Point:
    assert point is not None, "`curves` gives systems with this metric only"
    return point


def _draw(
    lines: Mapping[str, Sequence[Point]],
    path: Path,
    label: str,
    metric: type[metrics.Metric],
    scale: Callable[[Any], None],
) -> None:
    """One picture with a line for each name; none if there is nothing to draw."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not lines:
        return
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points in lines.items():
        x, y, low, high = np.array(points).T
        axes.errorbar(x, y, [y - low, high - y], marker="o", capsize=3, label=name)
    scale(axes)
    axes.set_xlabel(label)
    axes.set_ylabel(f"{metric.title}{f' ({metric.unit})' if metric.unit else ''}")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def _octaves(axes: Any) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")


def _shares(axes: Any, ticks: Sequence[float]) -> None:
    """A logarithmic axis of shares, on which no damage at all stands at the first tick."""
    axes.set_xscale("log")
    axes.set_xticks(ticks, ["none", *(f"{100 * share:g}%" for share in ticks[1:])])
    axes.minorticks_off()
