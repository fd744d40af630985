"""Fixed filters between sample rates as layers, exact in any chunking: they look both ways."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codec.nn.conv import fixed
from codec.nn.layer import Layer, Pointwise, Span
from codec.nn.padded import PaddedConv1d, PaddedConvTranspose1d
from codec.nn.state import StreamState


class Resample(Layer):
    """From one sample rate to `up / down` times it by a windowed sinc, `(B, C, N)` to `(B, C, N * up / down)`.

    Args:
        up: outputs per `down` inputs.
        down: inputs per `up` outputs.
        channels: C.
        reach: inputs heard before and after.
        roll_off: where the filter ends, as a share of what both rates can hold.
    """

    def __init__(
        self, up: int, down: int, *, channels: int = 1, reach: int = 48, roll_off: float = 0.95
    ) -> None:
        super().__init__()
        self.up, self.down = up, down
        # the padding puts input 0 under tap `reach`
        filters = PaddedConv1d(channels, up * channels, down + 2 * reach, stride=down, bias=False)
        positions = torch.arange(-reach, down + reach, dtype=torch.float64)
        times = positions - torch.arange(up, dtype=torch.float64)[:, None] * down / up  # (up, taps)
        cutoff = roll_off * min(1.0, up / down)
        inside = (1 - (times / (reach + 1)).square()).clamp_min(0)
        window = torch.special.i0(8.0 * inside.sqrt()) / torch.special.i0(torch.tensor(8.0)) * (inside > 0)
        taps = cutoff * torch.sinc(cutoff * times) * window
        weight = torch.zeros(channels, up, channels, down + 2 * reach)
        for channel in range(channels):
            weight[channel, :, channel] = (taps / taps.sum(1, keepdim=True)).float()
        self.filters = fixed(filters, weight.flatten(0, 1))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of `down`, to `(B, C, N * up / down)`; in a stream, to what is complete by now."""
        y = self.filters(x, state).unflatten(1, (-1, self.up))  # (B, C, up, N / down)
        return y.transpose(2, 3).flatten(2)

    def span(self, first: float, last: float) -> Span:
        """The inputs that outputs `first` to `last` depend on."""
        if not math.isinf(first):
            first = first // self.up
        if not math.isinf(last):
            last = last // self.up
        return self.filters.span(first, last)


class AliasFree(Layer):
    """An activation at twice the sample rate, between filters, so that its overtones do not fold back (BigVGAN).

    Lee et al., arXiv 2206.04658: filters of 12 taps.

    Args:
        activation: takes `(B, C, N)`.
    """

    def __init__(self, activation: Pointwise) -> None:
        super().__init__()
        times = torch.arange(12, dtype=torch.float64) - 5.5
        low = torch.sinc(times / 2) * torch.kaiser_window(12, periodic=False, beta=4.66, dtype=torch.float64)
        low = (low / low.sum()).float().view(1, 1, -1)
        self.activation = activation
        self.up = fixed(PaddedConvTranspose1d(1, 1, 12, stride=2, bias=False), 2 * low)
        self.down = fixed(PaddedConv1d(1, 1, 12, stride=2, bias=False), low)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`; in a stream, to the samples that are complete by now."""
        batch, channels, _ = x.shape
        # every channel by itself, as a row of the batch
        y = self.up(x.flatten(0, 1).unsqueeze(1), state)
        y = self.activation(y.reshape(batch, channels, y.shape[-1]))
        y = self.down(y.flatten(0, 1).unsqueeze(1), state)
        return y.reshape(batch, channels, y.shape[-1])

    def span(self, first: float, last: float) -> Span:
        """The samples that samples `first` to `last` depend on."""
        return self.up.span(*self.down.span(first, last))
