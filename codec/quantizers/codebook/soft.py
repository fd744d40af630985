"""Assign with a gradient through all codes: softmax over the whole book (IBQ), Gumbel-softmax."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.quantizers.codebook.assign import Assign, nearest, scores

_BLOCK = 1 << 24  # elements of a temporary


class SoftmaxAll(Assign):
    """The nearest code, with the gradient of a softmax over all codes (IBQ, arXiv 2412.02692).

    IBQ takes dot products as logits; here they are negative half squared distances, so that the code picked in
    training is the one that inference picks. Memory holds a block of rows of the softmax, never all of it.
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


class Gumbel(Assign):
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
