"""Gradient balancer: weights become shares of the gradient, whatever the scale of the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn


class GradientBalancer(nn.Module):
    """Balancer of EnCodec (Défossez et al. 2022, arXiv 2210.13438, section 3.4).

    With g_i the gradient of loss i at the decoded audio and n_i the running mean of its norm, the audio gets

        g = sum_i  total_norm * w_i / sum_j w_j * g_i / n_i

    over the losses present in the step. Calling it takes the gradients down to the audio only and returns a
    scalar whose own gradient at the audio is g: one ordinary backward pass then goes through the codec, so that
    DistributedDataParallel and autocast need nothing special.

    Each loss costs its own pass down to the audio in a step that measures; `every` thins those out, and the
    passes of the other steps are one.

    Args:
        weights: loss to share; losses of weight 0 and others are ignored.
        total_norm: norm of g, if the gradients are as long as they are on average and point the same way.
        decay: of the running norms, per measurement.
        every: steps between measurements.

    Raises:
        ValueError: a weight is negative, or decay or every is out of range.
    """

    sums: Tensor
    counts: Tensor
    steps: Tensor

    def __init__(
        self, weights: Mapping[str, float], *, total_norm: float = 1.0, decay: float = 0.999, every: int = 1
    ) -> None:
        super().__init__()
        if any(weight < 0 for weight in weights.values()):
            raise ValueError("the balancer's weights must not be negative")
        if not 0 <= decay <= 1 or every < 1:
            raise ValueError(f"the balancer's decay {decay} or period {every} is out of range")
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self.total_norm, self.decay, self.every = total_norm, decay, every
        self.metrics: dict[str, Tensor] = {}
        # discounted sum of the norms and discounted number of measurements, loss by loss
        self.register_buffer("sums", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(len(weights), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, losses: Mapping[str, Tensor], audio: Tensor) -> Tensor:
        """Scalar whose gradient at the decoded `audio` `(B, C, N)` is the balanced one.

        Its value is the sum of the losses under their present factors. The losses must depend on the codec
        through `audio` alone. The shares of the norms are in `metrics` afterwards.
        """
        present = {name: loss for name, loss in losses.items() if self.weights.get(name)}
        zero = audio.new_zeros((), dtype=torch.float32)
        if not present:
            return zero
        rows = [list(self.weights).index(name) for name in present]
        due = int(self.steps) % self.every == 0 or not bool(self.counts[rows].all())
        gradients = _gradients(list(present.values()), audio) if due else None
        if gradients is not None:
            self._measure(rows, torch.stack([_norm(gradient) for gradient in gradients]))
        self.steps += 1
        factors = self._factors(list(present), rows)
        value = sum((f * loss.float() for f, loss in zip(factors, present.values(), strict=True)), zero)
        if gradients is None:
            return value
        balanced = sum(f * gradient for f, gradient in zip(factors, gradients, strict=True))
        surrogate = (audio.float() * balanced).sum()
        return surrogate - surrogate.detach() + value.detach()

    def _measure(self, rows: list[int], norms: Tensor) -> None:
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(norms)
            norms = norms / distributed.get_world_size()
        # a batch that explodes is skipped by the training loop: it must leave no trace here either
        sound = [row for row, norm in zip(rows, norms.tolist(), strict=True) if math.isfinite(norm)]
        fresh = norms[norms.isfinite()].to(self.sums)
        self.sums[sound] = self.decay * self.sums[sound] + fresh
        self.counts[sound] = self.decay * self.counts[sound] + 1

    def _factors(self, names: list[str], rows: list[int]) -> list[float]:
        means = (self.sums[rows] / self.counts[rows].clamp(min=1e-12)).tolist()
        total = sum(means) + 1e-12
        self.metrics = {
            f"ratio_{name}": torch.tensor(mean / total) for name, mean in zip(names, means, strict=True)
        }
        weights = [self.weights[name] for name in names]
        return [
            self.total_norm * weight / sum(weights) / (mean + 1e-12)
            for weight, mean in zip(weights, means, strict=True)
        ]


def _gradients(losses: list[Tensor], audio: Tensor) -> list[Tensor]:
    """Gradients of the losses at the audio, in float32; nothing below the audio is touched."""
    last = len(losses) - 1
    return [
        torch.autograd.grad(loss, audio, retain_graph=i < last)[0].float() for i, loss in enumerate(losses)
    ]


def _norm(gradient: Tensor) -> Tensor:
    """Mean over the batch of the norm of each clip's gradient."""
    return gradient.flatten(1).norm(dim=1).mean()
