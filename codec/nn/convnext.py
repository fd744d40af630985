"""ConvNeXt blocks over time whose norms know a condition (Liu et al., arXiv 2201.03545; Siuzdak, arXiv 2306.00814)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.activations import gelu
from codec.nn.blocks import conv1d
from codec.nn.layer import Layer, Span
from codec.nn.linear import Linear
from codec.nn.padded import align
from codec.nn.state import StreamState


class AdaLayerNorm(nn.Module):
    """Layer normalization with a gain and a shift of its own for each condition.

    Args:
        dim: channels C.
        conditions: how many there are; with one it is plain layer normalization.
        eps: added to the variance.
    """

    def __init__(self, dim: int, conditions: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(conditions, dim))
        self.shift = nn.Parameter(torch.zeros(conditions, dim))
        self.eps = eps

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """`(B, T, C)` to `(B, T, C)`; `condition` `(B,)` int64, the last one if not given."""
        if condition is None:
            condition = torch.full((1,), len(self.gain) - 1, device=x.device)
        y = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return y * self.gain[condition][:, None] + self.shift[condition][:, None]


class ConvNeXtBlock(Layer):
    """Convolution of each channel over time, a norm and a two-layer perceptron per frame, added to the input.

    Args:
        dim: channels C.
        hidden: width inside the perceptron.
        kernel_size: frames that the convolution spans.
        scale: initial gain of the residual branch.
        conditions: of the norm.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        kernel_size: int = 7,
        scale: float = 1.0,
        conditions: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.depthwise = conv1d(dim, dim, kernel_size, groups=dim, causal=causal)
        self.norm = AdaLayerNorm(dim, conditions)
        self.expand = Linear(dim, hidden)
        self.contract = Linear(hidden, dim)
        self.gain = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, state: StreamState | None = None, condition: Tensor | None = None) -> Tensor:
        """`(B, C, T)` to `(B, C, T)`."""
        y = self.norm(self.depthwise(x, state).transpose(1, 2), condition)
        y = self.gain * self.contract(gelu(self.expand(y)))
        x, y = align(self, [x, y.transpose(1, 2)], state)
        return x + y

    def span(self, first: float, last: float) -> Span:
        """The frames that frames `first` to `last` depend on."""
        return self.depthwise.span(first, last)
