"""Assign: how a code is picked in training; here the base class and the nearest code."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops

_BLOCK = 1 << 24  # elements of a temporary


def scores(x: Tensor, codes: Tensor) -> Tensor:
    """(M, V) scores x.c - |c|^2 / 2: the highest belongs to the nearest code."""
    return F.linear(x, codes, codes.square().sum(1).mul(-0.5))


@torch.no_grad()
def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Index (M,) of the nearest code (V, d) of vectors (M, d), the lowest among equals, the same in any batch.

    Books larger than the operator knows are searched in float32 instead of exactly.
    """
    if len(codes) <= ops.MAX_CODES:
        return ops.rvq_encode(x, codes[None])[:, 0]
    rows = max(1, _BLOCK // len(codes))
    return torch.cat([scores(part, codes).argmax(1) for part in x.split(rows)])


class Assign(nn.Module):
    """How a code is picked in training. At inference it is always the nearest one.

    Attributes:
        differentiable: the second result carries the gradient to query and codes, instead of a bridge.
    """

    differentiable = False

    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Index (M,) of queries (M, d), and the code vectors (M, d) with gradient if differentiable."""
        raise NotImplementedError


class Nearest(Assign):
    """The nearest code by squared distance."""

    @torch.no_grad()
    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        return nearest(x, codes), None
