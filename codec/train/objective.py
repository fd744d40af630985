"""Which weight every term of the objective has."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence

import torch

from codec.errors import ConfigError
from codec.quantizers import LOSS_WEIGHTS, Quantizer


def term_weights(
    weights: Mapping[str, float], names: Sequence[str], quantizer: Quantizer
) -> tuple[dict[str, float], list[str]]:
    """The weight of each term, so that another quantizer needs no other weights.

    Args:
        weights: as configured.
        names: the terms that are not the quantizer's; each must have a weight.
        quantizer: its terms without a weight get the usual one, relative to that of the commitment; weights of terms
            that other quantizers have are left out.

    Returns:
        the weights, and a sentence for each that was added or left out.

    Raises:
        ConfigError: a weight of nothing, or a term without a weight.
    """
    given = quantizer_losses(quantizer)
    known = [*names, *given]
    found, notes = {}, []
    for name, weight in weights.items():
        if name in known:
            found[name] = weight
        elif name in LOSS_WEIGHTS:
            notes.append(f"loss.weights.{name} does nothing: the quantizer has no such loss")
        else:
            raise ConfigError(
                f"loss.weights names {name!r}, but there is no such loss; there are {', '.join(known)}"
            )
    scale = weights.get("commit", LOSS_WEIGHTS["commit"]) / LOSS_WEIGHTS["commit"]
    for name in known:
        if name in found:
            continue
        if name not in given:
            raise ConfigError(f"loss.weights has no weight for {name!r} (0 only logs it)")
        found[name] = LOSS_WEIGHTS[name] * scale
        notes.append(f"loss.weights has no {name}, a loss of the quantizer: it is {found[name]:g}")
    return found, notes


def quantizer_losses(quantizer: Quantizer) -> list[str]:
    """Names of the losses that the quantizer gives in training, by trying a copy of it."""
    quantizer = copy.deepcopy(quantizer).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few latents would not do for k-means
        return list(quantizer(torch.randn(4, quantizer.dim, 64)).losses)
