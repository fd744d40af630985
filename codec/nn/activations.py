"""Activations whose every value is the same bits wherever it stands in a tensor.

The framework computes `elu`, `gelu`, `silu` and `sigmoid` of the last few numbers of a tensor (and of every thread's
share) by another formula than the rest; `exp`, `expm1`, `erf`, `sin` and `tanh` are the same everywhere (measured).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.layer import Pointwise
from codec.nn.linear import exact
from codec.nn.state import StreamState
from codec.nn.version import session
from codec.ops import layers


class ELU(Pointwise):
    """`x` where it is positive, else `exp(x) - 1` (Clevert et al., arXiv 1511.07289)."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Any shape, kept."""
        if not exact(x):
            return F.elu(x)
        if layers.available() and _elu_compiled():
            dense = x.is_contiguous() or x.mT.is_contiguous()
            return layers.elu(x if dense else x.contiguous())
        return _elu(x)


def _elu(x: Tensor) -> Tensor:
    y = x.clamp_max(0).exp_().sub_(1)
    return torch.maximum(x, y, out=y)


@functools.cache
def _elu_compiled() -> bool:
    """Whether compiled code gives the same bits, by trial."""
    if not layers.has_functions():
        return False
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 2, 5000)
    return torch.equal(layers.elu(x), _elu(x))


class LeakyReLU(Pointwise):
    """`x` where it is positive, else a fraction of it (Maas et al., 2013).

    Args:
        slope: that fraction.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Any shape, kept."""
        return F.leaky_relu(x, self.slope)


class Tanh(Pointwise):
    """The hyperbolic tangent, which keeps samples within [-1, 1]."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Any shape, kept."""
        return x.tanh()


class Snake(Pointwise):
    """`x + sin(a x)^2 / a` with a learned `a` per channel (Ziyin et al., arXiv 2006.08195).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`."""
        alpha = self.alpha[:, None]
        wave = torch.sin(x * alpha)
        if not exact(x):
            return x + wave.square() / (alpha + 1e-9)
        return wave.mul_(wave).mul_(1 / (alpha + 1e-9)).add_(x)


class SnakeBeta(Pointwise):
    """`x + sin(a x)^2 / b` with `log a` and `log b` learned per channel (Lee et al., arXiv 2206.04658).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(channels))
        self.log_beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`."""
        wave = torch.sin(x * self.log_alpha.exp()[:, None])
        return x + wave.square() * (-self.log_beta).exp()[:, None]


class SiLU(Pointwise):
    """`x` times its logistic function (swish; Hendrycks and Gimpel, arXiv 1606.08415)."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Any shape, kept."""
        if not exact(x):
            return F.silu(x)
        return x / torch.exp(-x).add_(1)


def gelu(x: Tensor) -> Tensor:
    """`x` times the standard normal cumulative distribution at `x` (Hendrycks and Gimpel, arXiv 1606.08415)."""
    if not exact(x):
        return F.gelu(x)
    return (x * 0.5**0.5).erf_().add_(1).mul_(x).mul_(0.5)


def gelu_tanh(x: Tensor) -> Tensor:
    """Its approximation by a hyperbolic tangent, `x / (1 + exp(-2 u))` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`."""
    if not (session.prepared or exact(x)):
        return F.gelu(x, approximate="tanh")
    scale = -2 * (2 / torch.pi) ** 0.5
    y = torch.mul(x, x).mul_(0.044715 * scale).add_(scale).mul_(x).exp_().add_(1)
    return torch.div(x, y, out=y)
