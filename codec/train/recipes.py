"""The recipes: their names, and what each one is."""

from __future__ import annotations

import re
from pathlib import Path

from codec import assets
from codec.errors import ConfigError, suggestion


def names() -> list[str]:
    """Names of all recipes."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def folder() -> Path:
    """Where the recipes are."""
    return assets.root() / "recipes"


def summary(name: str) -> str:
    """The first comment line of a recipe: what it is, in one line."""
    for line in (folder() / f"{name}.yaml").read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:].strip()
    return ""


def bitrate(name: str) -> float:
    """The kbps that a recipe's line states.

    Raises:
        ConfigError: it states none.
    """
    found = re.search(r"([\d.]+) kbps", summary(name))
    if found is None:
        raise ConfigError(f"the first comment line of recipes/{name}.yaml states no kbps")
    return float(found[1])


def listing() -> str:
    """All recipes, one line each."""
    width = max(map(len, names()), default=0)
    return "\n".join(f"  {name:{width}}  {summary(name)}" for name in names())


def check(name: str) -> None:
    """Refuse an unknown recipe.

    Raises:
        ConfigError: there is none of this name; lists those there are.
    """
    if name not in names():
        raise ConfigError(f"there is no recipe {name!r}{suggestion(name, names())}; there are\n{listing()}")
