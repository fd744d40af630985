"""Norms over a whole signal, offline and in blocks with the same result.

A group norm over time (HiFi-Codec's encoder, EnCodec at 48 kHz) makes every output frame depend on every sample, so
no window, however wide, gives the frames of the whole signal. The statistics are the only way in which distant
samples act, though: a long signal is passed through in blocks, once per norm to measure it and once more for the
result. Memory stays bounded; the price is one pass up to each norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from codec.errors import CodecError
from codec.nn.layer import Layer, Span
from codec.nn.state import StreamState

NOT_LIVE = (
    "this codec is not causal: it normalises over the whole signal, so it cannot stream; "
    "encode whole files with it, or choose a causal model"
)


class Unmeasured(Exception):
    """A norm took note of a block and needs the others before the layers behind it can go on."""


class TimeGroupNorm(Layer, nn.GroupNorm):
    """Group normalization with the statistics of the whole signal `(B, C, N)`.

    In inference the sums are taken in 64 bits, so that their order does not show in the 32-bit result.
    """

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`.

        Raises:
            CodecError: a stream without the statistics of the whole signal.
            Unmeasured: the state measures, and this norm is not known yet; `x` has been counted.
        """
        if state is None and torch.is_grad_enabled():
            return nn.GroupNorm.forward(self, x)
        if state is None:
            statistics = self._statistics(self._moments(x))
        else:
            known = state.find(self, "statistics")
            if known is None:
                self._count(x, state)
                raise Unmeasured
            statistics = known
        mean, scale = statistics.float().repeat_interleave(self.num_channels // self.num_groups, 2).unbind(1)
        gain = scale * self.weight
        return x * gain[..., None] + (self.bias - mean * gain)[..., None]

    def span(self, first: float, last: float) -> Span:
        """The whole signal."""
        return -math.inf, math.inf

    def known(self, state: StreamState) -> bool:
        """Whether `state` has the statistics of the whole signal."""
        return state.find(self, "statistics") is not None

    def settle(self, measured: StreamState, state: StreamState) -> bool:
        """Give `state` the statistics that were counted in `measured`; False if there were none."""
        moments = measured.find(self, "moments")
        if moments is not None:
            state.put(self, self._statistics(moments), "statistics")
        return moments is not None

    def _count(self, x: Tensor, state: StreamState) -> None:
        if not state.measuring:
            raise CodecError(NOT_LIVE)
        before = state.find(self, "moments")
        moments = self._moments(x)
        state.put(self, moments if before is None else before + moments, "moments")

    def _moments(self, x: Tensor) -> Tensor:
        """Sum, sum of squares and count `(B, 3, groups)` of every group, in 64 bits."""
        rows = x.reshape(x.shape[0], self.num_groups, -1)
        sums = rows.sum(-1, dtype=torch.float64), rows.square().sum(-1, dtype=torch.float64)
        return torch.stack([*sums, torch.full_like(sums[0], rows.shape[-1])], dim=1)

    def _statistics(self, moments: Tensor) -> Tensor:
        """Mean and 1 / deviation `(B, 2, groups)`."""
        total, square, count = moments.unbind(1)
        mean = total / count.clamp(min=1)
        variance = (square / count.clamp(min=1) - mean.square()).clamp(min=0)
        return torch.stack([mean, (variance + self.eps).rsqrt()], dim=1)


def norms_over_time(network: nn.Module) -> list[TimeGroupNorm]:
    """The norms of a network whose statistics are those of the whole signal."""
    return [part for part in network.modules() if isinstance(part, TimeGroupNorm)]


def measure(network: nn.Module, state: StreamState, go: Callable[[StreamState], None]) -> None:
    """Give `state` the statistics that the norms over time in `network` have for a whole signal.

    Args:
        network: its norms.
        state: of a stream that has not begun.
        go: passes the whole signal through the network in the stream of the state that it is given, and goes on with
            the next block where one is `Unmeasured`; called once for every norm.
    """
    norms = norms_over_time(network)
    while not all(norm.known(state) for norm in norms):
        trial = state.clone()
        trial.measuring = True
        go(trial)
        settled = [norm.settle(trial, state) for norm in norms]
        if not any(settled):
            return  # there is no signal
