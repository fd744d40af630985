"""Convolutions that look ahead or mirror the ends of the signal, offline and in streams that lag accordingly."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.nn.conv import convolve_with, transposed_span
from codec.nn.functional import join_time, newest, pad_time, transpose_convolve
from codec.nn.layer import Layer, Span
from codec.nn.signal import TimeGroupNorm
from codec.nn.state import StreamState


class PaddedConv1d(Layer, nn.Conv1d):
    """Convolution over a signal with padded ends: `(B, C, N)` to `(B, C', ceil(N / stride))`.

    In a stream it gives out the frames whose input is complete, and with `state.last` the rest: together the
    frames of the whole signal.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps.
        stride: hop of the output; at most `(kernel_size - 1) * dilation + 1`.
        dilation: distance of the taps.
        groups: blocked connections, as in `nn.Conv1d`.
        bias: adds a learned bias.
        causal: all padding goes in front; otherwise half of it, the odd one in front.
        mirror: the padding is the signal's mirror image (EnCodec) instead of zeros.

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
        causal: bool = False,
        mirror: bool = False,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups, bias=bias
        )
        total = (kernel_size - 1) * dilation + 1 - stride
        if total < 0:
            raise ValueError(f"a stride of {stride} skips samples with a kernel of {kernel_size}")
        self.right = 0 if causal else total // 2
        self.left = total - self.right
        self.mirror = mirror

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C', ceil(N / stride))`; in a stream, to the frames that are complete by now."""
        if state is not None:
            return self._stream(x, state)
        missing = -x.shape[-1] % self.stride[0]
        before, x, after = with_ends(x, self.left, self.right + missing, mirror=self.mirror)
        return convolve_with(self, x, before, after)

    def span(self, first: float, last: float) -> Span:
        """The frames under the taps."""
        stride = self.stride[0]
        return first * stride - self.left, (last + 1) * stride - 1 + self.right

    def _stream(self, x: Tensor, state: StreamState) -> Tensor:
        stride = self.stride[0]
        # the mirror image of the end reaches back behind what the next frame needs
        spent = stride if self.mirror else 0
        held, after = state.take(self), None
        if held is None:
            start = state.take(self, "start")
            x = x if start is None else join_time(start, x)
            if state.last:
                return self(x) if x.shape[-1] else self._nothing(x)
            if self.mirror and x.shape[-1] <= self.left + self.right + stride:
                state.hold(self, x, "start")
                return self._nothing(x)
            before, _, _ = with_ends(x[..., : self.left + 1], self.left, 0, mirror=self.mirror)
            held = pad_time(before, spent, 0)
        total = held.shape[-1] + x.shape[-1] - spent
        if state.last:
            right = self.right + (self.left - total) % stride
            end = newest(held, x, right + 1) if self.mirror else x
            _, _, after = with_ends(end, 0, right, mirror=self.mirror)
            total += right
        frames = max(0, (total - self.left - self.right) // stride)
        if not state.last:
            state.hold(self, newest(held, x, spent + total - frames * stride))
        if frames == 0:
            return self._nothing(x)
        return convolve_with(self, x, held[..., spent:], after)

    def _nothing(self, x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0], self.out_channels, 0)


class PaddedConvTranspose1d(Layer, nn.ConvTranspose1d):
    """Transposed convolution cut evenly at both ends: `(B, C, T)` to `(B, C', T * stride)`.

    In a stream its output lags by the samples cut in front; `state.last` brings the rest.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps, at least the stride.
        stride: samples per frame.
        bias: adds a learned bias.
        norm: of the samples with the ends that are then cut off, as in EnCodec at 48 kHz.

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
        norm: TimeGroupNorm | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, bias=bias)
        if kernel_size < stride:
            raise ValueError(f"a kernel of {kernel_size} leaves holes at a stride of {stride}")
        self.ends = kernel_size - stride  # samples more than `T * stride`, before they are cut
        self.cut = self.ends - self.ends // 2
        self.history = -(-kernel_size // stride) - 1
        self.norm = norm

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:  # type: ignore[override]
        """`(B, C, T)` to `(B, C', T * stride)`; in a stream, to the samples that are complete by now."""
        if state is None:
            before = x.new_zeros(*x.shape[:2], self.history)
            return self._samples(before, x, first=self.cut, last=True, state=state)
        held, first = state.take(self), 0
        if held is None:
            start = state.take(self, "start")
            x = x if start is None else join_time(start, x)
            if state.last and x.shape[-1]:
                return self(x)
            if state.last or x.shape[-1] * self.stride[0] <= self.cut:
                state.hold(self, x, "start")
                return self._normed(x.new_zeros(x.shape[0], self.out_channels, 0), state)
            held, first = x.new_zeros(*x.shape[:2], self.history), self.cut
        if not state.last:
            state.hold(self, newest(held, x, self.history))
        return self._samples(held, x, first=first, last=state.last, state=state)

    def span(self, first: float, last: float) -> Span:
        """The frames whose taps reach the samples; all of them where there is a norm."""
        if self.norm is not None:
            first, last = -math.inf, math.inf
        return transposed_span(self, first, last, self.cut)

    def _samples(
        self, before: Tensor, x: Tensor, *, first: int, last: bool, state: StreamState | None
    ) -> Tensor:
        """What frames `x` after `before` say, from sample `first` on; at the `last` with what they say later."""
        length = x.shape[-1] * self.stride[0] + (self.ends if last else 0)
        if length == 0:
            return self._normed(x.new_zeros(x.shape[0], self.out_channels, 0), state)
        # the frames before were heard already; their taps that reach into this chunk are in the sum
        after = torch.zeros_like(before) if last else None
        y = transpose_convolve(x, self.weight, self.bias, stride=self.stride[0], before=before, after=after)
        y = self._normed(y[..., :length], state)
        return y[..., first : length - (self.ends - self.cut if last else 0)]

    def _normed(self, y: Tensor, state: StreamState | None) -> Tensor:
        # also where there are no samples yet: what comes behind a norm waits until it has been measured
        return y if self.norm is None else self.norm(y, state)


def with_ends(x: Tensor, left: int, right: int, *, mirror: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What stands before `x` `(B, C, N)`, `x`, and what stands behind it: zeros or its mirror image.

    A signal too short for its image gets zeros behind it first, as in EnCodec's release; it then comes in one piece.
    """
    if not mirror:
        return x.new_zeros(*x.shape[:2], left), x, x.new_zeros(*x.shape[:2], right)
    short = max(0, max(left, right) - x.shape[-1] + 1)
    if short:
        x = pad_time(x, 0, short)
    end = x.shape[-1]
    before, after = x[..., 1 : left + 1].flip(-1), x[..., end - 1 - right : end - 1].flip(-1)
    if short:
        x = torch.cat([before, x, after], dim=-1)[..., : left + end + right - short]
        before, after = x[..., :0], x[..., :0]
    return before, x, after


def align(layer: nn.Module, signals: list[Tensor], state: StreamState | None) -> list[Tensor]:
    """Signals `(B, C, n_i)` that lag differently, cut to what all have given; `layer` holds the rest back."""
    if state is None:
        return signals
    held = [state.take(layer, f"branch{index}") for index in range(len(signals))]
    joined = [
        signal if before is None else join_time(before, signal)
        for before, signal in zip(held, signals, strict=True)
    ]
    count = min(signal.shape[-1] for signal in joined)
    for index, signal in enumerate(joined):
        if signal.shape[-1] > count:
            state.hold(layer, signal[..., count:], f"branch{index}")
    return [signal[..., :count] for signal in joined]
