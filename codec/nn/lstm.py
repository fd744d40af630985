"""An LSTM over frames that gives the same bits in any chunking and any batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codec.nn.linear import exact, kept, linear
from codec.nn.state import StreamState


class LSTM(nn.Module):
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

    def _step_by_step(self, frames: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `(B, T, C)` and memory `(B, layers, 2, C)` to the same, one row and one step at a time.

        The framework's own loop multiplies all rows at once, and its sums then depend on how many there are.
        """
        width, x = self.dim, frames
        for layer in range(self.lstm.num_layers):
            inward, recurrent, *biases = (
                getattr(self.lstm, f"{name}_l{layer}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            bias = _gates_first(biases[0] + biases[1])
            drive = linear(x, inward, bias, _gates_first)
            weight = kept(recurrent, _gates_first)
            x = torch.empty_like(x, memory_format=torch.contiguous_format)
            gates = x.new_empty(4 * width)
            squashed, (into, keep, out), new = (
                gates[: 3 * width],
                gates[: 3 * width].split(width),
                gates[3 * width :],
            )
            for row in range(len(x)):
                h, c = memory[row, layer]
                for given, result in zip(drive[row].unbind(0), x[row].unbind(0), strict=True):
                    torch.addmv(given, weight, h, out=gates)
                    squashed.sigmoid_()
                    new.tanh_()
                    c.mul_(keep).addcmul_(into, new)
                    h = torch.tanh(c, out=result).mul_(out)
                memory[row, layer, 0] = h
        return x, memory


def _gates_first(weight: Tensor) -> Tensor:
    """Rows of input, forget, cell, output to input, forget, output, cell: those that take the same function."""
    into, keep, new, out = weight.chunk(4)
    return torch.cat([into, keep, out, new])
