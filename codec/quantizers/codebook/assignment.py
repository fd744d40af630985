"""Assignment: how a code is chosen in training (nearest, Sinkhorn, softmax over all codes, Gumbel-softmax)."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops
from codec.ops.reference import squared_distances
from codec.quantizers.codebook.distributed import all_minimum, all_reduce

_BLOCK = 1 << 24  # elements of a temporary


def scores(x: Tensor, codes: Tensor) -> Tensor:
    """(M, V) scores x.c - |c|^2 / 2: the highest belongs to the nearest code."""
    return F.linear(x, codes, codes.square().sum(1).mul(-0.5))


@torch.no_grad()
def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Index (M,) of the nearest code (V, d) of vectors (M, d), the lowest among equals, the same in any batch."""
    parts = codes.split(ops.MAX_CODES)
    best = ops.rvq_encode(x, parts[0][None])[:, 0]
    for number, part in enumerate(parts[1:], 1):
        found = ops.rvq_encode(x, part[None])[:, 0] + number * ops.MAX_CODES
        nearer, farther = (
            squared_distances(x[:, None], codes[index][:, None])[:, 0] for index in (found, best)
        )
        best = torch.where(nearer < farther, found, best)
    return best


class Assignment(nn.Module, ABC):
    """How a code is chosen in training. At inference it is always the nearest one.

    Attributes:
        differentiable: the second result carries the gradient to vectors and codes, instead of a gradient estimator.
    """

    differentiable = False

    @abstractmethod
    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Index (M,) of vectors (M, d), and their code vectors (M, d) with gradient if differentiable."""


class Nearest(Assignment):
    """The nearest code by squared distance."""

    @torch.no_grad()
    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        return nearest(x, codes), None


class Sinkhorn(Assignment):
    """Entropic optimal transport between the batch and evenly used codes (OptVQ, arXiv 2412.15195).

    Args:
        epsilon: sharpness of the plan.
        iterations: Sinkhorn iterations.
        sample: draw the code from the plan instead of taking its largest entry.
    """

    def __init__(self, epsilon: float = 10.0, iterations: int = 5, sample: bool = True) -> None:
        super().__init__()
        if epsilon <= 0 or iterations < 1:
            raise ValueError(
                f"epsilon must be positive and iterations at least 1, not {epsilon} and {iterations}"
            )
        self.epsilon, self.iterations, self.sample = epsilon, iterations, sample

    @torch.no_grad()
    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        # a vector that is no number must not spoil the plan of the others, here or in another process
        distance = torch.cdist(x.detach().nan_to_num(0.0, 0.0, 0.0), codes.detach())
        stats = torch.stack([distance.sum(), distance.square().sum(), distance.new_tensor(distance.numel())])
        all_reduce(stats)
        mean = stats[0] / stats[2]
        deviation = (stats[1] / stats[2] - mean.square()).clamp_min(1e-12).sqrt()
        distance = (distance - mean) / deviation
        # each column is scaled by its own sum below, so its own minimum may go: no code, however far, underflows
        least = distance.amin(0)
        all_minimum(least)
        plan = torch.exp(-self.epsilon * (distance - least))
        row = plan.new_ones(len(x))
        for _ in range(self.iterations):
            use = plan.t() @ row
            all_reduce(use)
            column = 1 / use.clamp_min(1e-20)
            row = 1 / (plan @ column).clamp_min(1e-20)
        plan = plan * column
        if not self.sample:
            return plan.argmax(1), None
        # drawn by the inverse of the distribution; the constant makes all codes as good where a row underflowed to zero
        ends = (plan + 1e-20).cumsum(1)
        drawn = torch.rand(len(x), 1, device=x.device) * ends[:, -1:]
        return torch.searchsorted(ends, drawn)[:, 0].clamp_max(len(codes) - 1), None


class SoftmaxAll(Assignment):
    """The nearest code, with the gradient of a softmax over all codes (IBQ, arXiv 2412.02692).

    IBQ takes dot products as logits; here they are negative half squared distances, so that training chooses
    the code that inference chooses. Memory holds a block of rows of the softmax, never all of it.
    """

    differentiable = True

    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        index = nearest(x, codes)
        return index, _SoftmaxMix.apply(x, codes, index)


class _SoftmaxMix(torch.autograd.Function):
    """q = A C with A = onehot + p - sg[p], p = softmax(scores): the value is the chosen code."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(x, codes, index)
        return codes[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, codes, index = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_codes = torch.zeros_like(codes).index_add_(0, index, grads[0])
        total = codes.new_zeros(len(codes))
        rows = max(1, _BLOCK // len(codes))
        for start in range(0, len(x), rows):
            part, grad = x[start : start + rows], grads[0][start : start + rows]
            p = scores(part, codes).softmax(1)
            through = grad @ codes.t()
            logits = p * (through - (p * through).sum(1, keepdim=True))
            grad_x[start : start + rows] = logits @ codes
            grad_codes.addmm_(logits.t(), part)
            total += logits.sum(0)
        return grad_x, grad_codes - total[:, None] * codes, None


class Gumbel(Assignment):
    """A code drawn from a softmax of negative squared distances (Jang et al., arXiv 1611.01144; VQ-APC).

    The distances are relative to twice the mean squared distance to the nearest code, per channel: what a code's
    posterior is when the error is white noise. So the draw is as bold for small latents, and in late residual stages,
    as for large ones.

    Args:
        temperature: of the relaxation that carries the gradient.
    """

    differentiable = True

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        logits = scores(x, codes)
        with torch.no_grad():
            error = (x.square().sum(1) - 2 * logits.amax(1)).mean() / x.shape[1]
        soft = F.gumbel_softmax(logits / error.clamp_min(1e-12), tau=self.temperature)
        index = soft.argmax(1)
        return index, codes[index] + (soft - soft.detach()) @ codes
