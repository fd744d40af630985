"""The recipes: finding them, saying what each one is, giving them to Hydra."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from codec import assets
from codec.errors import ConfigError


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


def register(arguments: Sequence[str] = ()) -> None:
    """Put every recipe into Hydra's group `recipe`, so that `+recipe=NAME` finds it from anywhere.

    Args:
        arguments: of the command line. What a recipe sets in a group goes with its choice there: where the command line
            makes another, `quantizer=fsq` for `rvq`, the recipe's settings of that group would be meaningless.
    """
    chosen = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    store = ConfigStore.instance()
    for name in names():
        node = _load(name)
        for group, option in _choices(node).items():
            if chosen.get(group, option) != option:
                node.pop(group, None)
        store.store(group="recipe", name=name, node=node, package="_global_")


def _load(name: str) -> DictConfig:
    node = OmegaConf.load(folder() / f"{name}.yaml")
    assert isinstance(node, DictConfig)
    return node


def _choices(recipe: DictConfig) -> dict[str, str]:
    """Which option a recipe takes of each group, by itself or by the recipes it begins with."""
    found: dict[str, str] = {}
    for default in recipe.defaults:
        if isinstance(default, DictConfig):
            found |= {str(key).removeprefix("override /"): option for key, option in default.items()}
        elif default != "_self_":
            found |= _choices(_load(default))
    return found


def check(name: str) -> None:
    """Refuse an unknown recipe.

    Raises:
        ConfigError: there is none of this name; lists those there are.
    """
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ConfigError(f"there is no recipe {name!r}{hint}; there are\n{listing()}")
