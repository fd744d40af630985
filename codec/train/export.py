"""From the state of a run to a weights file: the averaged codec alone, ready to use, with where it comes from."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codec import checkpoint, legacy
from codec.build import Allow, build, keywords, resolve
from codec.errors import CheckpointError
from codec.models.codec import Codec


def export(
    run: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    half: bool = True,
    metadata: Mapping[str, Any] | None = None,
    allow: Allow = (),
) -> dict[str, Any]:
    """Write the weights of a run.

    Optimisers, discriminators and what only training needs (running sums of the codebooks, weight norm) stay behind.

    Args:
        run: folder of a run, whose `best.ckpt` or else `last.ckpt` is taken, or a checkpoint.
        target: the weights file.
        half: store in 16 bits.
        metadata: what else goes into the model card: licence, scores; it overrides what the run recorded.
        allow: import paths, modules or packages of parts from outside this package that the run may name.

    Returns:
        The metadata of the file.

    Raises:
        CheckpointError: there is no such run, or it cannot be read or written.
    """
    state = _read(find(run))
    provenance = dict(state["codec"])
    config = legacy.config(provenance.pop("config"))
    codec = build(config, allow=allow)
    codec.load_state_dict(legacy.tensors(_weights(state["state_dict"]), codec.state_dict()))
    config, codec = for_use(config, codec, allow)
    # where the recordings lay on the machine that trained means nothing elsewhere
    data = {key: value for key, value in provenance.pop("data", {}).items() if key != "root"}
    checkpoint.save(codec, target, config, provenance | {"data": data} | dict(metadata or {}), half=half)
    return checkpoint.read_metadata(target)


def find(run: str | os.PathLike[str]) -> Path:
    """The checkpoint to export.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(run)
    if path.is_dir():
        for name in ("best.ckpt", "last.ckpt"):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path} holds no run: it has neither best.ckpt nor last.ckpt")
    if not path.is_file():
        raise CheckpointError(f"there is no run {path}")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        # tensors and plain values only: a checkpoint from elsewhere cannot run code
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if "codec" in state and "state_dict" in state:
            return state
    except Exception as error:
        raise CheckpointError(
            f"{path} is no checkpoint of a training run: {str(error).splitlines()[0]}"
        ) from error
    raise CheckpointError(f"{path} is no checkpoint of a training run of this program")


def _weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights, if the run averaged, else the weights."""
    average = "average.module."
    prefix = average if any(name.startswith(average) for name in state) else "codec."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def for_use(config: dict[str, Any], codec: Codec, allow: Allow = ()) -> tuple[dict[str, Any], Codec]:
    """The same codec with frozen codebooks, so that nothing is stored that only training needs."""
    spec = config["quantizer"]
    if "update" not in keywords(resolve("quantizer", spec["name"], allow)):
        return config, codec
    frozen = {"update": "frozen", "replace_dead": "none", "init": "random"}
    config = copy.deepcopy(config) | {"quantizer": dict(spec) | frozen}
    fixed = build(config, allow=allow)
    weights = codec.state_dict()
    fixed.load_state_dict({name: weights[name] for name in fixed.state_dict()})
    return config, fixed
