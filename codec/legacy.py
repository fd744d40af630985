"""What saved files of earlier versions call settings and tensors, so that they keep loading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

QUANTIZER_SETTINGS = {
    "assign": "assignment",
    "learn": "update",
    "revive": "replace_dead",
    "bridge": "gradient_estimator",
    "start": "init",
    "regularise": "regularisers",
    "semantic_books": "semantic_codebooks",
}
# parts of the names of a quantizer's tensors, between dots
QUANTIZER_TENSORS = {
    "books": "codebook_list",
    "learn": "update_rule",
    "regularise": "regularisers",
    "started": "initialised",
    "down": "in_proj",
    "up": "out_proj",
    "inward": "in_proj",
    "outward": "out_proj",
    "place": "positions",
}


def config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with the names of today."""
    quantizer = saved.get("quantizer")
    if not isinstance(quantizer, Mapping):
        return dict(saved)
    renamed = {QUANTIZER_SETTINGS.get(key, key): value for key, value in quantizer.items()}
    return dict(saved) | {"quantizer": renamed}


def tensors(saved: Mapping[str, T]) -> dict[str, T]:
    """Saved tensors under the names of today, whatever stands before `quantizer.` in them."""
    return {_tensor(name): value for name, value in saved.items()}


def _tensor(name: str) -> str:
    head, quantizer, tail = name.partition("quantizer.")
    parts = tail.split(".")
    return head + quantizer + ".".join(QUANTIZER_TENSORS.get(part, part) for part in parts)
