"""What saved files of earlier versions call settings and tensors, so that they keep loading."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

# whose settings and tensors had other names
QUANTIZERS = {"vq", "rvq", "grvq", "mcrvq", "product", "split_rvq", "vaevq"}

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
    # a class from outside this package has names of its own, which may be these
    if not isinstance(quantizer, Mapping) or quantizer.get("name") not in QUANTIZERS:
        return dict(saved)
    renamed = {QUANTIZER_SETTINGS.get(key, key): value for key, value in quantizer.items()}
    return dict(saved) | {"quantizer": renamed}


def tensors(saved: Mapping[str, T], known: Container[str]) -> dict[str, T]:
    """Saved tensors under the names of today, whatever stands before `quantizer.` in them.

    Args:
        saved: as they stand in a file.
        known: the names of today; a name among them is none of an earlier version.
    """
    return {name if name in known else _tensor(name): value for name, value in saved.items()}


def _tensor(name: str) -> str:
    head, quantizer, tail = name.partition("quantizer.")
    parts = tail.split(".")
    return head + quantizer + ".".join(QUANTIZER_TENSORS.get(part, part) for part in parts)
