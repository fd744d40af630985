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

from codec.nn.state import StreamState

# sgemm of fewer columns than this sums in another order (measured with MKL: up to 11 columns do)
MIN_COLUMNS = 16


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
    """`F.conv1d`, whose every output frame is the same number whatever the length and the batch.

    `F.conv1d` picks another kernel for small inputs, and the last bits of a frame then depend on how much
    else is in the tensor: enough to flip a code. In inference on the CPU this function always takes oneDNN's
    convolution, and for kernels of one tap, where oneDNN too depends on the length, a matrix product.
    Training, other devices and other types take `F.conv1d`.
    """
    exact = x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if not exact or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return F.conv1d(x, weight, bias, stride, padding, dilation, groups)
    if weight.shape[-1] == 1 and groups == 1 and stride == 1 and padding == 0:
        if weight.shape[0] >= MIN_COLUMNS:
            return _pointwise(x, weight[..., 0], bias)
        weight, x, dilation = F.pad(weight, (1, 0)), F.pad(x, (1, 0)), 1
    y = torch.mkldnn_convolution(
        x.unsqueeze(2), weight.unsqueeze(2), bias, (0, padding), (1, stride), (1, dilation), groups
    )
    return y.squeeze(2)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    length = x.shape[-1]
    if length < MIN_COLUMNS:
        x = F.pad(x, (0, MIN_COLUMNS - length))
    y = torch.matmul(weight, x)
    if bias is not None:
        y += bias[:, None]
    return y[..., :length]


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
        groups: blocked connections.
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
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=bias)
        if kernel_size < stride:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at a stride of {stride}")
        self.history = -(-kernel_size // stride) - 1

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # type: ignore[override]
        """`(B, C, T)` to `(B, C', T * stride)`; T = 0 is allowed."""
        stride = self.stride[0]
        frames = x.shape[-1]
        if frames == 0:
            return x.new_zeros(x.shape[0], self.out_channels, 0)
        x = with_history(self, x, self.history, state)
        y = F.conv_transpose1d(x, self.weight, self.bias, self.stride, 0, 0, self.groups, self.dilation)
        # the frames before were heard already; their taps that reach into this chunk are in the sum
        return y[..., self.history * stride : (self.history + frames) * stride]


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
        return F.pad(x, (length, 0))
    x = torch.cat([state.get(key, (x.shape[1], length), x.dtype), x], dim=-1)
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
