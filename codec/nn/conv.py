"""Causal convolutions whose offline and streamed arithmetic is the same code."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from codec.nn.functional import convolve, newest, transpose_convolve
from codec.nn.layer import Layer, Span
from codec.nn.state import StreamState

M = TypeVar("M", bound=nn.Module)


class CausalConv1d(Layer, nn.Conv1d):
    """Convolution that looks back only: `(B, C, N)` with `N % stride == 0` to `(B, C', N / stride)`.

    Output frame t sees input up to sample `(t + 1) * stride - 1`. Before the first sample lies a history of
    zeros, also offline, so that a whole signal and any chunking of it give the same numbers.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps.
        stride: hop of the output; at most `(kernel_size - 1) * dilation + 1`.
        dilation: distance of the taps.
        groups: blocked connections, as in `nn.Conv1d`.
        bias: adds a learned bias.

    Raises:
        ValueError: the stride is longer than the kernel's reach.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
        )
        self.history = (kernel_size - 1) * dilation + 1 - stride
        if self.history < 0:
            raise ValueError(f"a stride of {stride} skips samples with a kernel of {kernel_size}")

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of the stride, to `(B, C', N / stride)`; N = 0 is allowed."""
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0)
        return convolve_with(self, x, history(self, x, self.history, state))

    def span(self, first: float, last: float) -> Span:
        """The frames under the taps."""
        stride = self.stride[0]
        return first * stride - self.history, (last + 1) * stride - 1


class CausalConvTranspose1d(Layer, nn.ConvTranspose1d):
    """Transposed convolution that never revises what it gave out: `(B, C, T)` to `(B, C', T * stride)`.

    The `kernel_size - stride` samples that a longer kernel would write past the end wait for the next frames.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps, at least the stride.
        stride: samples per frame.
        bias: adds a learned bias.

    Raises:
        ValueError: the kernel is shorter than the stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=bias)
        if kernel_size < stride:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at a stride of {stride}")
        self.history = -(-kernel_size // stride) - 1

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # type: ignore[override]
        """`(B, C, T)` to `(B, C', T * stride)`; T = 0 is allowed."""
        if x.shape[-1] == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0)
        # the frames before were heard already; their taps that reach into this chunk are in the sum
        before = history(self, x, self.history, state)
        return transpose_convolve(x, self.weight, self.bias, stride=self.stride[0], before=before)

    def span(self, first: float, last: float) -> Span:
        """The frames whose taps reach the samples."""
        return transposed_span(self, first, last)


def convolve_with(
    conv: nn.Conv1d, x: Tensor, before: Tensor | None = None, after: Tensor | None = None
) -> Tensor:
    """`convolve` with the weights and settings of a module."""
    return convolve(
        x,
        conv.weight,
        conv.bias,
        stride=conv.stride[0],
        dilation=conv.dilation[0],
        groups=conv.groups,
        before=before,
        after=after,
    )


def history(layer: nn.Module, x: Tensor, length: int, state: StreamState | None) -> Tensor:
    """The `length` values that came before `x` `(B, C, N)`; the stream remembers those that came last now."""
    if state is None:
        return x.new_zeros(x.shape[0], x.shape[1], length)
    before = state.get(layer, (x.shape[1], length), x.dtype)
    if length:
        state.put(layer, newest(before, x, length))
    return before


def transposed_span(conv: nn.ConvTranspose1d, first: float, last: float, cut: int = 0) -> Span:
    """The frames whose taps reach samples `first` to `last`, `cut` samples having been cut off in front."""
    taps, stride = conv.kernel_size[0], conv.stride[0]
    if not math.isinf(first):
        first = -((taps - 1 - cut - first) // stride)
    return first, last if math.isinf(last) else (last + cut) // stride


def weight_norm(module: M) -> M:
    """Learn length and direction of every convolution's weight apart (Salimans and Kingma, arXiv 1602.07868).

    Call it after initialisation: values written into a parametrised weight are lost.
    """
    for part in module.modules():
        learns = isinstance(part, nn.Conv1d | nn.ConvTranspose1d) and not is_fixed(part)
        if learns and not parametrize.is_parametrized(part):
            parametrizations.weight_norm(part)
    return module


def fixed(conv: nn.Conv1d | nn.ConvTranspose1d, weight: Tensor) -> Any:
    """The convolution with given weights, which neither train nor travel in a checkpoint."""
    if weight.shape != conv.weight.shape:
        raise ValueError(f"weights {tuple(weight.shape)} for a convolution of {tuple(conv.weight.shape)}")
    del conv.weight
    conv.register_buffer("weight", weight, persistent=False)
    return conv


def is_fixed(conv: nn.Module) -> bool:
    """Whether `fixed` made this convolution."""
    return "weight" in dict(conv.named_buffers(recurse=False))
