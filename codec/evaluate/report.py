"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from codec import audio, metrics
from codec.evaluate.clips import Clip
from codec.evaluate.results import Evaluation
from codec.evaluate.score import EXAMPLE_SECONDS, Row
from codec.evaluate.summary import RATES, exclusions, failures
from codec.metrics.base import Signal
from codec.nn.spectrogram import decibels
from codec.system import atomic_write

TEMPLATE = Path(__file__).with_name("report.html")
WINDOW = 512
FLOOR, SPAN = -80.0, 30.0  # dB of a spectrogram's darkest, and of the difference's strongest colour


def write_report(result: Evaluation, folder: Path, clips: Sequence[Clip], rate: int) -> None:
    """Write `report.html` into `folder`."""
    store = folder / "data"
    content = {
        "table": result.table,
        "measures": _measures(),
        "rows": [
            {"system": row.system, "clip": row.clip, "scores": row.scores}
            for row in result.rows
            if not row.error
        ],
        "refused": result.refused,
        "missing": result.missing,
        "skipped": result.skipped,
        "warnings": result.warnings,
        "notes": {row.clip: row.note for row in result.rows if row.note},
        "errors": [*failures(result.rows), *exclusions(result.table)],
        "listen": [_example(clip, result.rows, store, rate) for clip in clips],
    } | result.details
    # no "</script>" may end the block early
    text = json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
    page = TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/null", text)
    with atomic_write(folder / "report.html") as file:
        file.write(page.encode())


def _measures() -> dict[str, Any]:
    found: dict[str, Any] = {
        name: {"title": title, "unit": unit, "higher": higher, "source": "", "rate": True}
        for name, (title, unit, higher) in RATES.items()
    }
    for name, metric in metrics.METRICS.items():
        found[name] = {
            "title": metric.title,
            "unit": metric.unit,
            "higher": metric.higher_is_better,
            "source": metric.source,
            "rate": False,
        }
    return found


def _example(clip: Clip, rows: Sequence[Row], store: Path, rate: int) -> dict[str, Any]:
    """A clip to hear and see: the original, then every system with its difference and tokens."""
    seconds = min([EXAMPLE_SECONDS, *(row.seconds for row in rows if row.clip == clip.name and row.example)])
    original = clip.load(rate, EXAMPLE_SECONDS)[: round(seconds * rate)]
    reference = _decibels(original)
    systems = []
    for row in rows:
        if row.clip != clip.name or not row.example:
            continue
        decoded = audio.read(store / row.example)[0][0]
        ours = _decibels(decoded)
        tokens = None
        if row.tokens:
            with np.load(store / row.tokens) as stored:
                frames = round(seconds * stored["codes"].shape[1] / row.seconds)
                tokens = {"codes": stored["codes"][:, :frames].tolist(), "sizes": stored["sizes"].tolist()}
        systems.append(
            {
                "system": row.system,
                "audio": _link((store / row.example).read_bytes(), "audio/flac"),
                "picture": _picture(ours, FLOOR, 0, "magma"),
                "difference": _picture(ours - reference, -SPAN, SPAN, "RdBu_r"),
                "scores": row.scores,
                "tokens": tokens,
            }
        )
    buffer = io.BytesIO()
    audio.write(buffer, original[None], rate, format="flac")
    return {
        "clip": clip.name,
        "audio": _link(buffer.getvalue(), "audio/flac"),
        "picture": _picture(reference, FLOOR, 0, "magma"),
        "systems": systems,
    }


def _decibels(signal: Signal) -> np.ndarray:
    """Spectrogram `(F, T)` in dB of a full-scale sine, high frequencies first."""
    return decibels(torch.from_numpy(signal), WINDOW, WINDOW // 2).numpy()[::-1]


def _picture(values: np.ndarray, low: float, high: float, colours: str) -> str:
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    pixels = colormaps[colours](np.clip((values - low) / (high - low), 0, 1), bytes=True)[..., :3]
    imsave(
        buffer, np.ascontiguousarray(pixels), format="jpg", pil_kwargs={"quality": 82}
    )  # noise makes PNGs huge
    return _link(buffer.getvalue(), "image/jpeg")


def _link(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
