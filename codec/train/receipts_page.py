"""recipes/README.md and its picture, made of the receipts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from codec import legacy
from codec.train import recipes
from codec.train.compose import compose
from codec.train.config import parse
from codec.train.size import slower, tiny

COLUMNS = [
    "recipe",
    "kbps",
    "parameters",
    "steps",
    "batch",
    "audio",
    "time",
    "mel_distance",
    "change",
    "least_usage",
]
Receipt = Mapping[str, Any]
WIDTH, HEIGHT, ACROSS = 200, 110, 4  # of a small picture in pixels; pictures in a row


def refresh() -> None:
    """Bring recipes/README.md and recipes/curves.svg up to date with the recipes and their receipts."""
    found, readme = receipts(), recipes.folder() / "README.md"
    readme.write_text(updated(readme.read_text(), found))
    (recipes.folder() / "curves.svg").write_text(curves(found))


def receipts() -> list[Receipt]:
    """All receipts of the repository, by recipe and size."""
    paths = sorted((recipes.folder() / "receipts").glob("*.json"))
    found = [_read(path) for path in paths]
    return sorted(found, key=lambda one: (one["size"], one["recipe"]))


def _read(path: Path) -> Receipt:
    one: dict[str, Any] = json.loads(path.read_text())
    return one | {"config": legacy.config(one["config"])}


def updated(text: str, found: Sequence[Receipt]) -> str:
    """The text of recipes/README.md with the lists and tables between its marks made anew."""
    lines = "\n".join(f"| `{name}` | {recipes.summary(name)} |" for name in recipes.names())
    parts = {
        "recipes": "| recipe | what it is |\n| --- | --- |\n" + lines,
        "receipts": table(found) + "\n\n```\n" + "\n".join(map(command, found)) + "\n```",
    }
    for mark, content in parts.items():
        begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}{content}\n{end}{rest.partition(end)[2]}"
    return text


def table(found: Sequence[Receipt]) -> str:
    """A markdown table of receipts, one line each."""
    lines = [f"| {' | '.join(COLUMNS).replace('_', ' ')} |", f"|{' --- |' * len(COLUMNS)}"]
    for one in found:
        last = one["curve"][-1]
        # the codec as the run began with it, and after its first steps
        since = [row for row in one["curve"] if row["step"] == 0] + [
            row for row in one["curve"] if row["step"]
        ][:1]
        data = one["config"]["data"]
        crop = data["samples"] / one["config"]["model"]["sample_rate"]
        cells = [
            label(one),
            f"{one['kbps']:.3g}",
            f"{one['parameters'] / 1e6:.2f} M",
            str(one["steps"]),
            f"{data['batch_size']} x {crop:.2g} s",
            f"{one['audio_hours']:.2f} h",
            f"{one['hours']:.2f} h",
            ", ".join(f"{row['mel_distance']:.2f} at {row['step']}" for row in [*since, last]),
            ", ".join(
                f"{last['mel_distance'] / row['mel_distance'] - 1:+.0%} from {row['step']}" for row in since
            ),
            f"{last['least_usage']:.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def label(one: Receipt) -> str:
    """The run's name in tables."""
    return f"`{one['recipe']}`" + (" tiny" if one["size"] == "tiny" else "")


def command(one: Receipt) -> str:
    """The command that repeats a run, but for the folder of the data: all settings that differ from the recipe.

    Only for runs with the recipe's parts: another quantizer or model is left out.
    """
    config = parse(compose(f"+recipe={one['recipe']}"))
    # what `size=tiny` does depends on the number of steps
    shortened = replace(config.train, steps=one["steps"])
    base = asdict(tiny(replace(config, train=shortened)) if one["size"] == "tiny" else config)
    base["train"]["steps"] = config.train.steps
    then = dict(one["config"])
    if one["size"] == "tiny":
        # rates are given before `size=tiny` raises them
        for part in ("generator", "discriminator"):
            raised, plain = base["optim"][part], asdict(config.optim)[part]
            now = then["optim"][part]
            then["optim"] = then["optim"] | {part: plain if now == raised else slower(now)}
            base["optim"][part] = plain
    words = [f"size={one['size']}", f"seed={one['seed']}", f"data.root={one['config']['data']['root']}"]
    if one["config"].get("weights"):
        words.append(f"weights={one['config']['weights']}")
    for group in ("model", "quantizer", "discriminator", "loss", "optim", "train", "data", "trainer"):
        words += _changes(group, base[group], then.get(group, {}))
    return f"python train.py +recipe={one['recipe']} " + " ".join(words)


def _changes(name: str, old: Any, new: Any) -> list[str]:
    """Overrides that make new settings of old ones."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [word for key in old if key in new for word in _changes(f"{name}.{key}", old[key], new[key])]
    if old == new or (not old and new == []) or name == "data.root":
        return []
    text = json.dumps(new).replace('"', "").replace(" ", "")
    return [f"'{name}={text}'" if text[0] in "[{" else f"{name}={text}"]


def curves(found: Sequence[Receipt]) -> str:
    """An SVG of small pictures, one per run: mel distance in validation over the steps, all on one scale."""
    top = math.ceil(max((row["mel_distance"] for one in found for row in one["curve"]), default=1.0))
    rows = -(-len(found) // ACROSS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{ACROSS * WIDTH}" height="{max(1, rows) * HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, one in enumerate(found):
        left, low = number % ACROSS * WIDTH + 30, number // ACROSS * HEIGHT + HEIGHT - 18
        wide, high, last = WIDTH - 45, HEIGHT - 42, one["curve"][-1]["step"]
        points = " ".join(
            f"{left + wide * row['step'] / last:.1f},{low - high * row['mel_distance'] / top:.1f}"
            for row in one["curve"]
        )
        end = one["curve"][-1]["mel_distance"]
        name = label(one).replace("`", "")
        parts += [
            f'<text x="{left}" y="{low - high - 8}" font-weight="bold">{name}: {end:.2f}</text>',
            f'<path d="M{left} {low - high}V{low}H{left + wide}" fill="none" stroke="#999"/>',
            f'<text x="{left - 4}" y="{low - high + 8}" text-anchor="end" fill="#555">{top}</text>',
            f'<text x="{left - 4}" y="{low}" text-anchor="end" fill="#555">0</text>',
            f'<text x="{left + wide}" y="{low + 13}" text-anchor="end" fill="#555">{last} steps</text>',
            f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="1.5"/>',
        ]
    return "\n".join([*parts, "</svg>", ""])
