"""Which input an output needs, computed from the layers of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch

from torch import nn

from codec.nn.activations import ELU, SiLU, Snake, SnakeBeta
from codec.nn.blocks import FrameGroupNorm, MultiReceptiveField, Residual
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.lstm import LSTM
from codec.nn.padded import PaddedConv1d, PaddedConvTranspose1d
from codec.nn.signal import TimeGroupNorm

Span = tuple[float, float]  # first and last index, both included; infinite where there is no bound


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """How far one frame sees beyond its own span of the input.

    Attributes:
        back: inputs before the frame's own (samples for an encoder, frames for a decoder); may be infinite.
        ahead: inputs after the frame's own.
    """

    back: float
    ahead: float


def receptive_field(module: nn.Module) -> ReceptiveField:
    """The receptive field of an encoder or decoder (anything with `hop`).

    For an encoder it is counted in samples around the `hop` samples of one frame, for a decoder in frames around
    the frame whose `hop` samples are heard. Padding at the ends of a signal is left out.

    Raises:
        TypeError: a layer of an unknown kind, without a method `needs(first, last)`.
    """
    hop = int(module.hop)  # type: ignore[arg-type]
    if hasattr(module, "delay"):
        delay = int(module.delay)  # type: ignore[arg-type]
        first, last = needs(module, (delay, delay + hop - 1))
        return ReceptiveField(-first, max(last, 0))
    first, last = needs(module, (0, 0))
    return ReceptiveField(-first, max(last - (hop - 1), 0))


@singledispatch
def needs(module: nn.Module, span: Span) -> Span:
    """The input indices that the outputs `span` of `module` depend on.

    Raises:
        TypeError: a layer of an unknown kind, without a method `needs(first, last)`.
    """
    if hasattr(module, "needs"):
        return module.needs(*span)  # type: ignore[operator]
    raise TypeError(f"the receptive field of {type(module).__name__} is not known")


def _pointwise(module: nn.Module, span: Span) -> Span:
    return span


for _kind in (
    nn.Identity,
    nn.LeakyReLU,
    nn.ELU,
    nn.Tanh,
    ELU,
    SiLU,
    Snake,
    SnakeBeta,
    nn.LayerNorm,
    FrameGroupNorm,
):
    needs.register(_kind, _pointwise)


@needs.register
def _(module: TimeGroupNorm, span: Span) -> Span:
    return (-math.inf, math.inf)


@needs.register
def _(module: CausalConv1d, span: Span) -> Span:
    stride = module.stride[0]
    return (span[0] * stride - module.history, (span[1] + 1) * stride - 1)


@needs.register
def _(module: PaddedConv1d, span: Span) -> Span:
    stride = module.stride[0]
    return (span[0] * stride - module.left, (span[1] + 1) * stride - 1 + module.right)


@needs.register
def _(module: CausalConvTranspose1d, span: Span) -> Span:
    return _transposed(module, span, 0)


@needs.register
def _(module: PaddedConvTranspose1d, span: Span) -> Span:
    return _transposed(module, span if module.norm is None else (-math.inf, math.inf), module.cut)


def _transposed(module: nn.ConvTranspose1d, span: Span, cut: int) -> Span:
    taps, stride = module.kernel_size[0], module.stride[0]
    first = span[0] if math.isinf(span[0]) else -((taps - 1 - cut - span[0]) // stride)
    last = span[1] if math.isinf(span[1]) else (span[1] + cut) // stride
    return (first, last)


@needs.register
def _(module: LSTM, span: Span) -> Span:
    return (-math.inf, span[1])


@needs.register
def _(module: nn.Sequential, span: Span) -> Span:
    for part in reversed(module):
        span = needs(part, span)
    return span


@needs.register
def _(module: Residual, span: Span) -> Span:
    side = span if module.shortcut is None else needs(module.shortcut, span)
    return _union(needs(module.body, span), side)


@needs.register
def _(module: MultiReceptiveField, span: Span) -> Span:
    for norm in module.norms:
        span = _union(span, needs(norm, span))
    spans = [needs(branch, span) for branch in module.branches]
    return (min(first for first, _ in spans), max(last for _, last in spans))


def _union(a: Span, b: Span) -> Span:
    return (min(a[0], b[0]), max(a[1], b[1]))
