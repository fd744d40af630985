"""What every part of a network that streams is: a layer that takes a state and knows which input its output needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from codec.nn.state import StreamState

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


class Layer(nn.Module, ABC):
    """A layer over time whose offline and streamed arithmetic is the same code.

    Without a state its input is a whole signal. With one, the input continues what came before, and what the layer
    must remember of it is put into the state, under the layer's name; nothing is stored in the layer itself.
    """

    @abstractmethod
    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)` to `(B, C', M)`; in a stream, to the outputs that are complete by now."""

    @abstractmethod
    def span(self, first: float, last: float) -> Span:
        """First and last input that the outputs `first` to `last` depend on; padding at the ends is left out."""


class Pointwise(Layer):
    """A layer that treats every frame by itself."""

    def span(self, first: float, last: float) -> Span:
        """The outputs' own inputs."""
        return first, last


class StreamSequential(nn.Sequential, Layer):
    """Layers in a row."""

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """Pass `x` and the state through every layer."""
        for layer in self:
            x = layer(x, state)
        return x

    def span(self, first: float, last: float) -> Span:
        """Through the layers, from the last to the first."""
        for layer in reversed(self):
            first, last = layer.span(first, last)  # type: ignore[operator]
        return first, last


def union(a: Span, b: Span) -> Span:
    """The span that covers both."""
    return min(a[0], b[0]), max(a[1], b[1])
