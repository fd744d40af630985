"""The comparison of quantizers as a table, a CSV file and a picture."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of one quantizer on one kind of vectors.

    Attributes:
        quantizer: key of ``ENTRIES``.
        data: ``gaussian`` or ``latents``.
        bits: per vector, the sum of log2 V.
        sqnr_db: variance over squared error of vectors not trained on.
        line_db: 6.02 dB per bit and dimension, what white Gaussian vectors allow at best.
        bound_db: what Gaussian vectors with the same covariance allow at best; others may beat it.
        usage: share of the codes in use, mean of the codebooks.
        perplexity: exponential of the codes' entropy as a share of V, mean of the codebooks.
        ns_per_vector: of ``encode``, processor time.
        parameters: all numbers of the weights that inference needs.
        steps: training steps that fitted into the time.
        ms_per_step: processor time of a training step of 1,024 vectors.
    """

    quantizer: str
    data: str
    bits: float
    sqnr_db: float
    line_db: float
    bound_db: float
    usage: float
    perplexity: float
    ns_per_vector: float
    parameters: int
    steps: int
    ms_per_step: float


def tables(results: Iterable[Result]) -> "list[Table]":
    """For the terminal: one table for each kind of vectors."""
    from rich.table import Table

    found: dict[str, Table] = {}
    for r in results:
        if r.data not in found:
            found[r.data] = shown = Table(title=f"Quantizers on {r.data}")
            shown.add_column("quantizer", no_wrap=True)
            for name in ("bits", "SQNR dB", "6.02/bit", "bound", "usage %", "perplexity %"):
                shown.add_column(name, justify="right")
            for name in ("encode ns/vector", "train ms/step", "steps", "parameters"):
                shown.add_column(name, justify="right")
        levels = [f"{value:.2f}" for value in (r.sqnr_db, r.line_db, r.bound_db)]
        shares = [f"{100 * share:.1f}" for share in (r.usage, r.perplexity)]
        cost = [f"{r.ns_per_vector:,.0f}", f"{r.ms_per_step:.1f}", f"{r.steps:,}", f"{r.parameters:,}"]
        found[r.data].add_row(r.quantizer, f"{r.bits:.1f}", *levels, *shares, *cost)
    return list(found.values())


def write_csv(results: Iterable[Result], path: str | PathLike[str]) -> None:
    """All figures, a line per quantizer and kind of vectors."""
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)])
        writer.writeheader()
        for result in results:
            row = asdict(result)
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


def plot(results: Iterable[Result], path: str | PathLike[str]) -> None:
    """A picture: signal-to-noise ratio of each quantizer beside the bound at its rate, a panel per kind of vectors."""
    from matplotlib.figure import Figure

    results = list(results)
    kinds = list(dict.fromkeys(r.data for r in results))
    names = list(dict.fromkeys(r.quantizer for r in results))
    figure = Figure(figsize=(5 * len(kinds) + 2, 0.24 * len(names) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, kinds, strict=True):
        rows = [next(r for r in results if r.quantizer == n and r.data == kind) for n in reversed(names)]
        axis.barh([r.quantizer for r in rows], [r.sqnr_db for r in rows], color="#4477aa", label="measured")
        axis.plot(
            [r.bound_db for r in rows], range(len(rows)), "k|", markersize=9, label="rate-distortion bound"
        )
        axis.plot([r.line_db for r in rows], range(len(rows)), "r.", markersize=3, label="6.02 dB per bit")
        axis.set_xlabel("SQNR (dB)")
        axis.set_title(kind)
        axis.margins(y=0.01)
        axis.grid(axis="x", alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)
