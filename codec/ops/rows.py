"""Linear maps of a few rows in compiled code: reading the weights is all they cost.

A streamed frame is a row or two through every layer. The framework's products take three times as long for them as the
weights take to read, or must be filled up with rows that nobody needs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.ops import kernel

PANEL = 32  # outputs whose weights lie together; also in linear.cpp


class Rows:
    """A matrix `(out, in)` packed for products with a few rows.

    Weights that half precision holds exactly, as in an exported model, are kept in it: the same numbers, in half the
    time.

    Args:
        matrix: float32 on the CPU.
        block: inputs after which a sum begins anew.
    """

    def __init__(self, matrix: Tensor, block: int) -> None:
        library = kernel.cpu_library("linear")
        assert library is not None, "call it only where `available()`"
        self._outputs, self._inputs = matrix.shape
        self._block = block
        filled = F.pad(matrix, (0, 0, 0, -self._outputs % PANEL))
        panels = filled.unflatten(0, (-1, PANEL)).transpose(1, 2)  # (ceil(out / PANEL), in, PANEL)
        half = panels.half()
        if library.codec_linear_has_half() and torch.equal(half.float(), panels):
            self._panels, self._function = half.contiguous(), library.codec_linear_half
        else:
            self._panels, self._function = panels.contiguous(), library.codec_linear

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Contiguous rows `(M, in)` to `(M, out)`, with `bias` `(out,)` added."""
        rows = x.shape[0]
        y = torch.empty(rows, self._outputs)
        self._function(
            x.data_ptr(),
            self._panels.data_ptr(),
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            rows,
            self._inputs,
            self._outputs,
            self._block,
        )
        return y


def available() -> bool:
    """Whether the library has been compiled (`python -m codec.ops.kernel --build`) and may be used."""
    return kernel.cpu_library("linear") is not None
