"""Evenly spaced levels in each channel: FSQ seen as a table, and where such levels begin."""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from codec.quantizers.codebook.table import Table

_ROWS = 8192  # vectors that are looked at


class Grid(Table):
    """All combinations of evenly spaced levels in each channel, as one codebook.

    Args:
        dim: width D.
        size: number of codes V, the product of the levels.
        trainable: whether the scale is learned (the robust scaling of arXiv 2508.15860) and starts from data.
        levels: number of levels per channel.
        scale: first distance from zero to the outermost level.
    """

    writable = False
    learned = True

    def __init__(
        self, dim: int, size: int, *, trainable: bool, levels: Sequence[int] = (), scale: Sequence[float] = ()
    ) -> None:
        if len(levels) != dim or prod(levels) != size:
            raise ValueError(f"levels {list(levels)} do not make {size} codes of width {dim}")
        super().__init__(1, 2, trainable=False)
        axes = [torch.linspace(-1, 1, level) for level in levels]
        # the first channel counts fastest, as in the codes of FSQ
        self.weight = torch.cartesian_prod(*axes[::-1]).view(size, dim).flip(1)
        self.levels = tuple(levels)
        self.scale = nn.Parameter(torch.tensor(scale or [1.0] * dim), requires_grad=trainable)

    def codes(self) -> Tensor:
        return self.weight * self.scale

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        levels = torch.tensor(self.levels, device=x.device)
        self.scale.copy_(best_scale(x, lambda part, scale: spaced(part, scale, levels)))


def spaced(x: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
    """Each channel of vectors (M, d) at the nearest of so many (d,) evenly spaced values from -scale to scale (d,)."""
    step = 2 * scale / (levels - 1)
    return ((x + scale) / step).round().clamp_min(0).minimum(levels - 1) * step - scale


def best_scale(x: Tensor, quantize: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The scale (d,) that brings ``quantize(x, scale)`` closest to x (M, d): up to four deviations of x, by tenths."""
    x = x[:: -(-len(x) // _ROWS)]
    tried = torch.linspace(0.1, 4.0, 40, device=x.device)[:, None] * x.std(0, correction=0).clamp_min(1e-6)
    errors = torch.stack([(quantize(x, scale) - x).square().mean(0) for scale in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]
