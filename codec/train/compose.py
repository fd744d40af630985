"""Configurations composed by Hydra, recipes among them."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from codec import assets
from codec.train import recipes


def compose(*overrides: str) -> DictConfig:
    """The configuration of a run, as the command line would compose it: `compose("+recipe=default", "seed=1")`."""
    register(overrides)
    with hydra.initialize_config_dir(str(assets.root() / "conf"), version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def register(arguments: Sequence[str] = ()) -> None:
    """Put every recipe into Hydra's group `recipe`, so that `+recipe=NAME` finds it from anywhere.

    Args:
        arguments: of the command line. What a recipe sets in a group goes with its choice there: where the command line
            makes another, `quantizer=fsq` for `rvq`, the recipe's settings of that group would be meaningless.
    """
    chosen = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    store = ConfigStore.instance()
    for name in recipes.names():
        node = _load(name)
        for group, option in _choices(node).items():
            if chosen.get(group, option) != option:
                node.pop(group, None)
        store.store(group="recipe", name=name, node=node, package="_global_")


def _load(name: str) -> DictConfig:
    node = OmegaConf.load(recipes.folder() / f"{name}.yaml")
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
