"""Learned scalar grids: a lattice with one step per channel (LL-VQ), and free values per channel (QLAE)."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantizers.base import Common, Losses
from codec.quantizers.codebook.init import best_scale, spaced
from codec.quantizers.scalar import Scalar


class Lattice(Scalar):
    """A diagonal lattice q = b * round(z / b) with learned b, cut to a box (LL-VQ-VAE, arXiv 2310.09382).

    Losses: ``codebook``, ``commit``, and ``size`` = -sum |b|, which keeps the lattice coarse. The paper draws the first
    b at random; here it comes from the first batch, so that the box holds the data.

    Args:
        dim: latent width D.
        levels: lattice points per channel of one codebook, the sides of the box.
        num_codebooks: number of codebooks K, each with its own channels.
        common: see `Common`.
    """

    loss_names = ("commit", "codebook", "size")

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (7, 5, 5, 5),
        num_codebooks: int = 1,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(dim, list(levels) * num_codebooks, num_codebooks, **common)
        self.step = nn.Parameter(4.6 / self.levels)

    def _init_from(self, y: Tensor) -> None:
        reach = best_scale(y, lambda x, scale: self._points(x, 2 * scale / (self.levels - 1)))
        self.step.data.copy_(2 * reach / (self.levels - 1))

    def _points(self, y: Tensor, step: Tensor) -> Tensor:
        low = self.levels // 2
        return step * torch.minimum((y / step).round().clamp_min(-low), self.levels - 1 - low)

    def _digits(self, y: Tensor) -> Tensor:
        step = self.step.detach().abs().clamp_min(1e-12)
        return (self._points(y, step) / step).round().long() + self.levels // 2

    def _values(self, digits: Tensor) -> Tensor:
        return (digits - self.levels // 2) * self.step.abs().clamp_min(1e-12)

    def _terms(self, y: Tensor, bounded: Tensor, values: Tensor) -> Losses:
        return {
            "commit": F.mse_loss(y, values.detach()),
            "codebook": F.mse_loss(values, y.detach()),
            "size": -self.step.abs().sum(),
        }


class QLAE(Scalar):
    """Learned values per channel, the nearest one taken (latent quantization, arXiv 2305.18378).

    The paper pairs it with a high weight decay on the model. Its first values are evenly spaced in -0.5..0.5; here they
    are so over the spread of the first batch. Losses: ``codebook`` and ``commit``.

    Args:
        dim: latent width D.
        levels: values per channel of one codebook.
        num_codebooks: number of codebooks K, each with its own channels.
        common: see `Common`.
    """

    loss_names = ("commit", "codebook")

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_codebooks: int = 1,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(dim, list(levels) * num_codebooks, num_codebooks, **common)
        most = int(self.levels.max())
        rows = [F.pad(torch.linspace(-0.5, 0.5, int(n)), (0, most - int(n)), value=0.5) for n in self.levels]
        self.values = nn.Parameter(torch.stack(rows))
        # not infinities to be added: averaged weights would make them NaN
        self.register_buffer("unused", torch.arange(most) >= self.levels[:, None], persistent=False)

    unused: Tensor

    def _init_from(self, y: Tensor) -> None:
        scale = best_scale(y, lambda x, scale: spaced(x, scale, self.levels))
        self.values.data.mul_(2 * scale[:, None])

    def _digits(self, y: Tensor) -> Tensor:
        return (y[..., None] - self.values.detach()).abs().masked_fill(self.unused, torch.inf).argmin(-1)

    def _values(self, digits: Tensor) -> Tensor:
        return self.values.gather(1, digits.t()).t()

    def _terms(self, y: Tensor, bounded: Tensor, values: Tensor) -> Losses:
        return {"commit": F.mse_loss(y, values.detach()), "codebook": F.mse_loss(values, y.detach())}
