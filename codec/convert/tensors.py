"""Reading other projects' checkpoints safely, and filling a codec with their tensors."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from codec.errors import CheckpointError
from codec.models.codec import Codec


def load(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` wrote, if it is made of tensors and plain containers: nothing in the file is executed.

    Raises:
        CheckpointError: it is missing, damaged, or holds anything else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint of tensors that can be read: {reason}") from error


class Source:
    """The tensors of a foreign checkpoint, each of which must be taken once.

    Args:
        tensors: by foreign name.
        name: of the checkpoint, for error messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        # a model wrapped for several devices has a prefix before every name
        self._tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
        self._name = name
        self._left = set(self._tensors)

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._tensors)

    def take(self, key: str) -> Tensor:
        """The tensor `key`, in 32 bits.

        Raises:
            CheckpointError: there is none.
        """
        if key not in self._tensors:
            raise CheckpointError(f"{self._name} does not have the layout: it has no {key}")
        self._left.discard(key)
        return self._tensors[key].float()

    def weight(self, prefix: str) -> Tensor:
        """The weight of a layer, with or without weight norm (either of the framework's two forms)."""
        for gain, direction in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            if f"{prefix}.{gain}" in self._tensors:
                g, v = self.take(f"{prefix}.{gain}"), self.take(f"{prefix}.{direction}")
                return torch._weight_norm(v, g, 0)
        return self.take(f"{prefix}.weight")

    def shape(self, prefix: str) -> tuple[int, ...]:
        """The shape of a layer's weight.

        Raises:
            CheckpointError: there is no such layer.
        """
        return tuple(self.weight(prefix).shape)

    def count(self, pattern: str) -> int:
        """How many layers `pattern.0`, `pattern.1`, ... there are."""
        numbers = {
            key[len(pattern) + 1 :].partition(".")[0]
            for key in self._tensors
            if key.startswith(f"{pattern}.")
        }
        return sum(number.isdigit() for number in numbers)

    def finish(self, ignore: Iterable[str] = ()) -> None:
        """Make sure that nothing is left.

        Raises:
            CheckpointError: tensors that no layer of ours takes.
        """
        left = sorted(key for key in self._left if not key.endswith(tuple(ignore)))
        if left:
            raise CheckpointError(
                f"{self._name} does not have the layout: {len(left)} tensors have no place, such as {left[0]}"
            )


def layer(source: Source, theirs: str, ours: str) -> dict[str, Tensor]:
    """Weight and bias of a layer under our name."""
    return {f"{ours}.weight": source.weight(theirs), f"{ours}.bias": source.take(f"{theirs}.bias")}


def transplant(codec: Codec, weights: Mapping[str, Any]) -> None:
    """Fill a folded codec: `codebooks` are the code vectors in stream order, everything else is a tensor by name.

    Raises:
        CheckpointError: weights are missing, unknown or of another shape.
        ConfigError: the same of the code vectors.
    """
    own = {key: value for key, value in codec.state_dict().items() if not key.startswith("quantizer.")}
    given = {key: value for key, value in weights.items() if key != "codebooks"}
    wrong = sorted(own.keys() ^ given.keys())
    wrong += sorted(key for key in own.keys() & given.keys() if own[key].shape != given[key].shape)
    if wrong:
        raise CheckpointError(
            f"the checkpoint does not fit: {wrong[0]} is missing, unknown or of another shape"
        )
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(given[key])
    codec.quantizer.load_tables(weights["codebooks"])
