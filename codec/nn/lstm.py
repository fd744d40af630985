"""An LSTM over frames that gives the same bits in any chunking and any batch."""

from __future__ import annotations

import functools
import math
from functools import partial

import torch
from torch import Tensor, nn

from codec.nn.layer import Layer, Span
from codec.nn.linear import compiled_block, exact, kept, linear, packed
from codec.nn.state import StreamState
from codec.ops import layers


class LSTM(Layer):
    """Layers of long short-term memory over time, added to their input (as in EnCodec, arXiv 2210.13438).

    Args:
        dim: channels C, of input and output.
        layers: how many.
    """

    def __init__(self, dim: int, layers: int = 2) -> None:
        super().__init__()
        self.dim = dim
        self.lstm = nn.LSTM(dim, dim, layers, batch_first=True)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, T)` to `(B, C, T)`."""
        if x.shape[-1] == 0:
            return x
        frames = x.transpose(1, 2)
        shape = (self.lstm.num_layers, 2, self.dim)
        before = x.new_zeros(x.shape[0], *shape) if state is None else state.get(self, shape, x.dtype)
        if exact(x):
            y, after = self._step_by_step(frames, before.clone())
        else:
            # the framework wants (layers, B, C), our streams (B, ...)
            h, c = before.permute(2, 1, 0, 3).contiguous().unbind(0)
            y, last = self.lstm(frames, (h, c))
            after = torch.stack(last).permute(2, 1, 0, 3)
        if state is not None:
            state.put(self, after)
        return (y + frames).transpose(1, 2)

    def span(self, first: float, last: float) -> Span:
        """All frames up to the last."""
        return -math.inf, last

    def _step_by_step(self, frames: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `(B, T, C)` and memory `(B, layers, 2, C)` to the same, one row and one step at a time.

        The framework's own loop multiplies all rows at once, and its sums then depend on how many there are.
        """
        x = frames
        for layer in range(self.lstm.num_layers):
            inward, recurrent, *biases = (
                getattr(self.lstm, f"{name}_l{layer}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            drive = linear(x, inward, _gates_first(biases[0] + biases[1]), _gates_first)
            quick = layers.available() and _compiled(self.dim)
            run = kept(recurrent, _recurrence) if quick else partial(_steps, recurrent)
            x = torch.stack([run(row, *memory[i, layer]) for i, row in enumerate(drive)])
        return x, memory


def _steps(recurrent: Tensor, drive: Tensor, h: Tensor, c: Tensor) -> Tensor:
    """Outputs `(T, C)` of what drives the gates `(T, 4 C)`; `h` and `c` `(C,)` are read and written."""
    matrix, width = packed(recurrent, _gates_first), len(h)
    y = drive.new_empty(len(drive), width)
    now = h
    for given, result in zip(drive, y, strict=True):
        gates = matrix.times(now[None], recurrent, given)[0]
        into, keep, out = gates[: 3 * width].sigmoid_().split(width)
        new = gates[3 * width :].tanh_()
        c.mul_(keep).addcmul_(into, new)
        now = torch.tanh(c, out=result).mul_(out)
    h.copy_(now)
    return y


def _recurrence(recurrent: Tensor) -> layers.Recurrence:
    block = compiled_block(recurrent.shape[1], recurrent.shape[0])
    assert block is not None
    return layers.Recurrence(_gates_first(recurrent), block)


@functools.cache
def _compiled(width: int) -> bool:
    """Whether compiled code gives the same bits, by trial."""
    if (
        not layers.fits_recurrence(width)
        or not layers.has_functions()
        or not compiled_block(width, 4 * width)
    ):
        return False
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(4 * width, width, generator=random) * width**-0.5
    drive = torch.randn(10, 4 * width, generator=random)
    found, expected = (
        torch.cat([run(drive, *state), state.flatten()[None].view(-1, width)])
        for run, state in (
            (_recurrence(weight), torch.ones(2, width)),
            (partial(_steps, weight), torch.ones(2, width)),
        )
    )
    return torch.equal(found, expected)


def _gates_first(weight: Tensor) -> Tensor:
    """Rows of input, forget, cell, output to input, forget, output, cell: those that take the same function."""
    into, keep, new, out = weight.chunk(4)
    return torch.cat([into, keep, out, new])
