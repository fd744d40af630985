"""Causal convolutions whose offline and streamed arithmetic is the same code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from codec.nn.linear import Arrange, exact, linear
from codec.nn.state import StreamState

# windows that fit the processor's cache together with what becomes of them
BLOCK = 1 << 17


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """`F.conv1d`, whose every output frame is the same number whatever the length, the batch and the threads.

    `F.conv1d` picks another kernel for another size, and the last bits of a frame then depend on how much else is
    in the tensor: enough to flip a code. In inference on the CPU this is a matrix product of the windows instead,
    by `linear`, with the channels innermost in memory: `(B, C, N)` is then a view of `(B, N, C)`.
    """
    if not exact(x):
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)
    if groups > 1:
        y = torch.mkldnn_convolution(
            x.unsqueeze(2), weight.unsqueeze(2), bias, (0, padding), (1, stride), (1, dilation), groups
        )
        return y.squeeze(2)
    if padding:
        x = pad_time(x, padding, padding)
    frames = x.transpose(1, 2).contiguous()
    if weight.shape[-1] == 1:
        frames = frames[:, ::stride]
        return linear(frames, weight, bias, _taps_inside).transpose(1, 2)
    windows = _windows(frames, weight.shape[-1], stride, dilation)
    return _blockwise(windows, weight, bias, _taps_inside).transpose(1, 2)


def transpose_convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int) -> Tensor:
    """`F.conv_transpose1d` without its first and last samples, exact as `convolve`.

    Args:
        x: `(B, C, T)`; the first `ceil(k / stride) - 1` frames are history, whose own samples are not given out.
        weight: `(C, C', k)`.
        bias: `(C',)`.
        stride: samples per frame.

    Returns:
        `(B, C', stride * (T - history))`.
    """
    taps = -(-weight.shape[-1] // stride)
    if not exact(x):
        y = F.conv_transpose1d(x, weight, bias, stride)
        return y[..., (taps - 1) * stride : x.shape[-1] * stride]
    frames = x.transpose(1, 2).contiguous()
    if bias is not None:
        bias = bias.repeat(stride)
    y = _blockwise(_windows(frames, taps, 1, 1), weight, bias, _phases(stride))
    return y.reshape(x.shape[0], -1, weight.shape[1]).transpose(1, 2)


def _windows(frames: Tensor, taps: int, stride: int, dilation: int) -> Tensor:
    """`(B, N, C)` to overlapping windows `(B, T, taps, C)`, a view."""
    batch, length, width = frames.shape
    count = (length - (taps - 1) * dilation - 1) // stride + 1
    size, strides = (batch, count, taps, width), (length * width, stride * width, dilation * width, 1)
    return frames.as_strided(size, strides)


def _blockwise(windows: Tensor, weight: Tensor, bias: Tensor | None, arrange: Arrange) -> Tensor:
    """`linear` of windows `(B, T, taps, C)`, which are copied a few at a time."""
    batch, _, taps, width = windows.shape
    rows = max(64, BLOCK // (batch * taps * width))
    parts = [
        linear(part.reshape(batch, -1, taps * width), weight, bias, arrange)
        for part in windows.split(rows, 1)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _taps_inside(weight: Tensor) -> Tensor:
    """Weight `(C', C, k)` of a convolution to a matrix `(C', k * C)`."""
    return weight.transpose(1, 2).reshape(weight.shape[0], -1)


@functools.cache
def _phases(stride: int) -> Arrange:
    """Weight `(C, C', k)` of a transposed convolution to a matrix `(stride * C', taps * C)`."""

    def arrange(weight: Tensor) -> Tensor:
        inside, outside, length = weight.shape
        taps = -(-length // stride)
        # a frame's tap j speaks j frames later: the oldest frame of the window has the last tap
        parts = F.pad(weight, (0, taps * stride - length)).view(inside, outside, taps, stride).flip(2)
        return parts.permute(3, 1, 2, 0).reshape(stride * outside, taps * inside)

    return arrange


def pad_time(x: Tensor, left: int, right: int) -> Tensor:
    """Zeros before and behind `x` `(B, C, N)`, in whichever order it lies in memory."""
    if x.is_contiguous():
        return F.pad(x, (left, right))
    return F.pad(x.transpose(1, 2), (0, 0, left, right)).transpose(1, 2)


def join_time(first: Tensor, second: Tensor) -> Tensor:
    """`second` `(B, C, n)` after `first` `(B, C, m)`, in the memory order of `second`."""
    if second.is_contiguous():
        return torch.cat([first, second], dim=-1)
    return torch.cat([first.transpose(1, 2), second.transpose(1, 2)], dim=1).transpose(1, 2)


class CausalConv1d(nn.Conv1d):
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
        x = with_history(self, x, self.history, state)
        return convolve_with(self, x)


class CausalConvTranspose1d(nn.ConvTranspose1d):
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
        x = with_history(self, x, self.history, state)
        # the frames before were heard already; their taps that reach into this chunk are in the sum
        return transpose_convolve(x, self.weight, self.bias, stride=self.stride[0])


def convolve_with(conv: nn.Conv1d, x: Tensor, padding: int = 0) -> Tensor:
    """`convolve` with the weights and settings of a module."""
    return convolve(
        x,
        conv.weight,
        conv.bias,
        stride=conv.stride[0],
        padding=padding,
        dilation=conv.dilation[0],
        groups=conv.groups,
    )


def with_history(key: Any, x: Tensor, length: int, state: StreamState | None) -> Tensor:
    """Put the `length` values before `x` `(B, C, N)` in front of it and remember its own last ones."""
    if length == 0:
        return x
    if state is None:
        return pad_time(x, length, 0)
    x = join_time(state.get(key, (x.shape[1], length), x.dtype), x)
    state.put(key, x[..., -length:])
    return x


class StreamSequential(nn.Sequential):
    """Modules in a row; those that stream get the state, the others (activations, norms) do not."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Pass `x` and the state through every module."""
        for module in self:
            x = module(x, state) if is_stateful(module) else module(x)
        return x


def is_stateful(module: nn.Module) -> bool:
    """Whether `module.forward` takes a stream state."""
    return _takes_state(type(module).forward)


@functools.cache
def _takes_state(forward: Callable[..., Any]) -> bool:
    return "state" in inspect.signature(forward).parameters


def weight_norm(module: nn.Module) -> nn.Module:
    """Learn length and direction of every convolution's weight apart (Salimans and Kingma, arXiv 1602.07868).

    Call it after initialisation: values written into a parametrised weight are lost.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d) and not parametrize.is_parametrized(part):
            parametrizations.weight_norm(part)
    return module
