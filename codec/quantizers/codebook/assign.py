"""Assign: how a code is picked in training; here the base class and the nearest code."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops
from codec.ops.reference import squared_distances


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
