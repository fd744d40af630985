"""Learning rate over time, averaged weights, and gradient norms."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from codec.train.config import ScheduleConfig


def rate_factor(
    schedule: ScheduleConfig, step: int, epoch: int, *, steps: int, steps_per_epoch: int
) -> float:
    """Factor on the learning rate: a pure function of the progress, so that resuming needs no state.

    Args:
        schedule: its shape.
        step: generator steps done.
        epoch: passes over the data done.
        steps: steps of the whole run.
        steps_per_epoch: batches of one pass over the data.
    """
    factor = 1.0
    if schedule.name == "exponential":
        factor = schedule.gamma ** (step if schedule.every == "step" else epoch)
    elif schedule.name == "cosine":
        done = step if schedule.every == "step" else epoch * steps_per_epoch
        share = min(1.0, max(0, done - schedule.warmup) / max(1, steps - schedule.warmup))
        factor = 0.5 * (1 + math.cos(math.pi * share))
    elif schedule.name == "trapezoid":
        done = step if schedule.every == "step" else epoch * steps_per_epoch
        factor = min(1.0, max(0, steps - done) / max(1, schedule.decay))
    factor = max(factor, schedule.floor)
    if step < schedule.warmup:
        factor *= (step + 1) / (schedule.warmup + 1)
    return factor


class Average(nn.Module):
    """Exponential moving average of a module's weights and floating point buffers.

    Early on the decay is smaller, (1 + n) / (10 + n) after n updates, so that the average does not remember the initial
    weights and the empty codebooks.

    Args:
        module: what is averaged; it is copied.
        decay: weight of the past per update.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay

    def train(self, mode: bool = True) -> Average:
        """The average stays in evaluation mode: it never learns from data."""
        return super().train(False)

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int, decay: float | None = None) -> None:
        """Take in the present weights of `module`, after `updates` earlier ones; decay 0 copies them."""
        decay = min(self.decay, (1 + updates) / (10 + updates)) if decay is None else decay
        old, new = [], []
        for mine, theirs in zip(_tensors(self.module), _tensors(module), strict=True):
            if mine.is_floating_point():
                old.append(mine)
                new.append(theirs)
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(old, new, 1 - decay)


def _tensors(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def gradient_norm(parameters: Iterable[nn.Parameter], clip: float | None) -> Tensor:
    """Norm of all gradients together, which are scaled down to `clip` if they are longer."""
    found = [p for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in found if p.grad is not None])
    if clip is not None:
        nn.utils.clip_grads_with_norm_(found, clip, norm)
    return norm
