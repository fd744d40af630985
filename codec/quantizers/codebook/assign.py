"""Assign: how a code is picked in training; here the base class and the nearest code."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TILE = 32


def scores(x: Tensor, codes: Tensor) -> Tensor:
    """(M, V) scores x.c - |c|^2 / 2: the highest belongs to the nearest code."""
    return F.linear(x, codes, codes.square().sum(1).mul(-0.5))


def nearest(x: Tensor, codes: Tensor) -> Tensor:
    """Index (M,) of the nearest code by squared distance; ties go to the lowest index."""
    score = scores(x, codes)
    if score.is_cuda or score.shape[1] % _TILE or not len(score):
        return score.argmax(1)
    # on a CPU torch finds a maximum much faster than its place: first the tile, then the place in it
    tiles = score.view(len(score), -1, _TILE)
    tile = tiles.amax(2).argmax(1)
    inside = tiles[torch.arange(len(score)), tile].argmax(1)
    return tile * _TILE + inside


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
