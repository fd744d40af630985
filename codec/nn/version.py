"""When what was made of a weight is out of date."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from operator import attrgetter
from typing import Any, Self

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

Version = tuple[int, int, int]

_changes = 0


class _Session(threading.local):
    """Whether this thread is in a step of a stream that has been through all layers with the weights as they are.

    Attributes:
        prepared: what was made of the weights before is used as it is: frames come a hundred times a second, and
            comparing versions in every layer would cost them more than the small layers do. It is only set for float32
            on the CPU, without gradients and autocast.
    """

    prepared = False


session = _Session()


def note_change(*_: object) -> None:
    """Weights may have changed in a way that they do not tell."""
    global _changes
    _changes += 1


def version(tensor: Tensor) -> Version:
    """A value that differs from the one before if the tensor may have changed since.

    A tensor counts the writes into it, but fused optimisers of torch write past that count, and so does everything
    that goes through `.data`; a tensor that takes another's place may lie at its address. Therefore a step of any
    optimiser counts as a change of every tensor, and so do loading, moving and switching a `Changing` module between
    training and evaluation. After a write through `.data`, say `.eval()`.
    """
    return tensor._version, tensor.data_ptr(), _changes


_count = attrgetter("_version")


def versions(tensors: Iterable[Tensor]) -> int:
    """A number that differs from the one before if any of the tensors may have changed since; see `version`."""
    return _changes + sum(map(_count, tensors))


class Changing(nn.Module):
    """A module whose weights count as changed when they are loaded or moved and when its mode is switched."""

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; what was made of the weights is made anew."""
        note_change()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        note_change()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        note_change()
        super()._load_from_state_dict(*args, **kwargs)


register_optimizer_step_post_hook(note_change)
