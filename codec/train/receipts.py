"""Receipts: one small file per run that says what was run, on what, and what it reached."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from codec import __version__, assets
from codec.train.config import RunConfig
from codec.train.data import EndlessData
from codec.train.task import CodecTask

POINTS = 24  # of a curve


def receipt(
    config: RunConfig, task: CodecTask, data: EndlessData, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a run was and what it reached, in plain values.

    Args:
        config: resolved.
        task: at its end.
        data: its data.
        rows: of its `log.jsonl`.
    """
    valid = [row for row in rows if row["kind"] == "valid"]
    train = [row for row in rows if row["kind"] == "train"]
    codec = task.codec
    return {
        "recipe": config.name,
        "size": config.size,
        "steps": task.global_step,
        "audio_hours": round(
            task.batches * data.batch_size * config.data["samples"] / codec.sample_rate / 3600, 3
        ),
        "hours": round(max((row["seconds"] for row in rows), default=0.0) / 3600, 3),
        "kbps": codec.bitrate() / 1000,
        "parameters": sum(p.numel() for p in codec.parameters()),
        "seed": config.seed,
        "data": data.summary,
        "commit": commit(),
        "environment": environment(),
        "curve": thin(valid, ("step", "mel_distance", "usage", "least_usage")),
        "training_curve": thin(train, ("step", "mel", "adv", "disc", "usage", "perplexity")),
        "evaluation": task.metrics,
        "config": _without_paths(asdict(config)),
    }


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folders of the machine it ran on; the hash says which data it was."""
    data = config["data"] | {
        key: Path(config["data"][key]).name for key in ("root", "valid") if config["data"].get(key)
    }
    if data.get("dataset"):
        data["dataset"] = {key: _without_folder(value) for key, value in data["dataset"].items()}
    data["sources"] = [
        source | {"root": Path(source["root"]).name} if source.get("root") else source
        for source in data.get("sources") or []
    ]
    loss = dict(config["loss"])
    if loss["teacher"] and Path(str(loss["teacher"].get("source"))).expanduser().is_dir():
        loss["teacher"] = loss["teacher"] | {"source": Path(loss["teacher"]["source"]).name}
    logger = {key: value for key, value in config["logger"].items() if key != "save_dir"}
    place = {"dir": Path(config["dir"]).name, "resume": bool(config["resume"])}
    place["weights"] = config["weights"] and Path(config["weights"]).name
    return config | {"data": data, "loss": loss, "logger": logger} | place


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def thin(rows: list[dict[str, Any]], keys: Iterable[str], most: int = POINTS) -> list[dict[str, float]]:
    """At most so many of the rows, the first and the last among them, reduced to `keys`."""
    step = max(1, -(-len(rows) // most))
    chosen = [*rows[:-1:step], *rows[-1:]]
    return [{key: row[key] for key in keys if key in row} for row in chosen]


def commit() -> str | None:
    """The revision of the checkout, with a plus if it was changed; None for an installed package."""
    root = assets.root()
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        found = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "codec", "conf", "recipes")
    return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)


def environment() -> dict[str, Any]:
    """Versions and machine."""
    found = {name: version(name) for name in ("torch", "lightning", "hydra-core", "numpy")}
    return found | {
        "codec": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def write(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON file."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    from codec.train.receipts_page import refresh

    refresh()
