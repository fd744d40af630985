"""When what was made of a weight is out of date."""

from __future__ import annotations

from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

Version = tuple[int, int, int]

_changes = 0


def note_change(*_: object) -> None:
    """Weights may have changed in a way that they do not tell."""
    global _changes
    _changes += 1


def version(tensor: Tensor) -> Version:
    """A value that differs from the one before if the tensor may have changed since.

    A tensor counts the writes into it, but fused optimisers of torch write past that count, and so does everything
    that goes through `.data`. Therefore a step of any optimiser counts as a change of every tensor, and so does
    switching a codec between training and evaluation.
    """
    return tensor._version, tensor.data_ptr(), _changes


register_optimizer_step_post_hook(note_change)
