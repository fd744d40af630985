"""Norms over a whole signal, and long signals in blocks with the same result.

A group norm over time (HiFi-Codec's encoder, EnCodec at 48 kHz) makes every output frame depend on every sample, so
no window, however wide, gives the frames of the whole signal. The statistics are the only way in which distant
samples act, though: a long signal is passed through in blocks, once per norm to measure it and once more for the
result. Memory stays bounded; the price is one pass up to each norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from codec.errors import CodecError
from codec.nn.state import StreamState

Statistics = tuple[Tensor, Tensor]  # mean and 1 / deviation, (B, groups)


class Unmeasured(Exception):
    """A norm took note of a block and needs the others before it can go on."""


class SignalStatistics:
    """What the norms of a network know about one signal."""

    def __init__(self) -> None:
        self._known: dict[nn.Module, Statistics] = {}
        self._sums: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def of(self, norm: TimeGroupNorm, x: Tensor) -> Statistics:
        """The statistics for `norm`; `x` `(B, C, N)` is its next block.

        Raises:
            Unmeasured: not known yet; `x` has been counted.
        """
        if norm in self._known:
            return self._known[norm]
        total, square, count = _moments(x, norm.num_groups)
        if norm in self._sums:
            before = self._sums[norm]
            total, square, count = before[0] + total, before[1] + square, before[2] + count
        self._sums[norm] = (total, square, count)
        raise Unmeasured

    def settle(self) -> bool:
        """Take what was counted in this pass as the statistics; False if nothing was."""
        for norm, sums in self._sums.items():
            self._known[norm] = _settle(*sums, eps=norm.eps)  # type: ignore[arg-type]
        measured = bool(self._sums)
        self._sums.clear()
        return measured


class TimeGroupNorm(nn.GroupNorm):
    """Group normalization with the statistics of the whole signal `(B, C, N)`.

    In inference the sums are taken in 64 bits, so that their order does not show in the 32-bit result.
    """

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C, N)`.

        Raises:
            CodecError: a stream without the statistics of the whole signal.
            Unmeasured: see `SignalStatistics.of`.
        """
        if state is None and torch.is_grad_enabled():
            return super().forward(x)
        if state is None:
            mean, scale = _settle(*_moments(x, self.num_groups), eps=self.eps)
        elif state.statistics is None:
            raise CodecError(
                "this codec normalizes over the whole signal, so it cannot stream: encode the whole file"
            )
        else:
            mean, scale = state.statistics.of(self, x)
        size = self.num_channels // self.num_groups
        gain = scale.repeat_interleave(size, 1) * self.weight
        shift = self.bias - mean.repeat_interleave(size, 1) * gain
        return x * gain[..., None] + shift[..., None]


def in_blocks(module: Callable[..., Tensor], blocks: Callable[[], Iterable[Tensor]]) -> Iterator[Tensor]:
    """Pass a long signal through `module` block by block; the outputs joined are the output of the whole.

    Args:
        module: an encoder or decoder, `module(x, state)`.
        blocks: gives the signal's blocks `(B, C, n)` from its start, each time it is called; it is called once
            more for every norm over time in the module.

    Yields:
        Outputs `(B, C', m)`, one per block, m >= 0.
    """
    statistics = SignalStatistics()
    again = True
    while again:
        state: StreamState | None = None
        for block, last in _mark_last(blocks()):
            if state is None:
                state = StreamState(block.shape[0], block.device, block.dtype)
                state.statistics = statistics
            state.last = last
            try:
                y = module(block, state)
            except Unmeasured:
                continue
            yield y
        again = statistics.settle()


def _mark_last(blocks: Iterable[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    before: Tensor | None = None
    for block in blocks:
        if before is not None:
            yield before, False
        before = block
    if before is not None:
        yield before, True


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor, int]:
    rows = x.reshape(x.shape[0], groups, -1)
    return rows.sum(-1, dtype=torch.float64), rows.square().sum(-1, dtype=torch.float64), rows.shape[-1]


def _settle(total: Tensor, square: Tensor, count: int, *, eps: float) -> Statistics:
    mean = total / max(1, count)
    variance = (square / max(1, count) - mean.square()).clamp(min=0)
    return mean.float(), (variance + eps).rsqrt().float()
