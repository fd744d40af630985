"""What convolutional codecs are built of: residual branches, parallel branches, norms and activations."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce

import torch
from torch import Tensor, nn

from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.layer import Layer, Pointwise, Span, StreamSequential, union
from codec.nn.padded import PaddedConv1d, PaddedConvTranspose1d, align
from codec.nn.signal import TimeGroupNorm
from codec.nn.state import StreamState


def conv1d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    causal: bool,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
    mirror: bool = False,
) -> CausalConv1d | PaddedConv1d:
    """A convolution that looks back only (`causal`) or both ways, `(B, C, N)` to `(B, C', N / stride)`.

    With `mirror` the signal's mirror image stands before its start (and behind its end) instead of silence.
    """
    kind = CausalConv1d if causal and not mirror else partial(PaddedConv1d, causal=causal, mirror=mirror)
    return kind(
        in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
    )


def conv_transpose1d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    causal: bool,
    stride: int = 1,
    bias: bool = True,
    norm: TimeGroupNorm | None = None,
) -> CausalConvTranspose1d | PaddedConvTranspose1d:
    """A transposed convolution that looks back only or both ways, `(B, C, T)` to `(B, C', T * stride)`.

    One that looks both ways may have a norm over all that it makes, the ends that it cuts off included.
    """
    kind = CausalConvTranspose1d if causal else partial(PaddedConvTranspose1d, norm=norm)
    return kind(in_channels, out_channels, kernel_size, stride=stride, bias=bias)


class Residual(Layer):
    """`shortcut(x) + body(x)`; the shortcut is the identity unless given.

    Args:
        body: layers in a row.
        shortcut: a layer of the same output shape.
    """

    def __init__(self, body: Iterable[Layer], shortcut: Layer | None = None) -> None:
        super().__init__()
        self.body = StreamSequential(*body)
        self.shortcut = shortcut

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C', N)`."""
        y = self.body(x, state)
        if self.shortcut is not None:
            x = self.shortcut(x, state)
        x, y = align(self, [x, y], state)
        return x + y

    def span(self, first: float, last: float) -> Span:
        """What the body needs, and the shortcut."""
        side = (first, last) if self.shortcut is None else self.shortcut.span(first, last)
        return union(self.body.span(first, last), side)


class MultiReceptiveField(Layer):
    """Mean of parallel branches with different kernels (HiFi-GAN, Kong et al., arXiv 2010.05646).

    Args:
        branches: layers of the same shape.
        norms: one per branch, each applied to the sum so far, as in HiFi-Codec's encoder (arXiv 2305.02765).
    """

    def __init__(self, branches: Iterable[Layer], norms: Iterable[Layer] = ()) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`."""
        outputs = align(self, [branch(x, state) for branch in self.branches], state)
        total = outputs[0]
        for index, y in enumerate(outputs):
            if index > 0:
                total = total + y
            if self.norms:
                total = self.norms[index](total, state)
        return total / len(self.branches)

    def span(self, first: float, last: float) -> Span:
        """What the norms need of the branches, and these of the input."""
        for norm in self.norms:
            first, last = union((first, last), norm.span(first, last))  # type: ignore[operator]
        return reduce(union, [branch.span(first, last) for branch in self.branches])  # type: ignore[operator]


class FrameGroupNorm(Pointwise, nn.GroupNorm):
    """Group normalization with the statistics of each frame by itself, so that it streams: `(B, C, N)`."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`."""
        batch, channels, length = x.shape
        size = channels // self.num_groups
        groups = x.view(batch, self.num_groups, size, length)
        centred = groups - _sum(groups) / size
        scale = torch.rsqrt(_sum(centred.square()) / size + self.eps)
        y = (centred * scale).view(batch, channels, length)
        return y * self.weight[:, None] + self.bias[:, None]


def _sum(x: Tensor) -> Tensor:
    """Sum over dimension 2, kept; in inference term by term, for `sum` takes another order for another length."""
    if torch.is_grad_enabled():
        return x.sum(2, keepdim=True)
    return reduce(torch.add, x.split(1, dim=2))
