"""Layers in C++, to the bits of the framework and quicker than it where sounds are long or frames are few.

A streamed frame is a row or two through every layer: the framework's products then take three times as long as their
weights take to read, or must be filled up with rows that nobody needs. In a long sound it copies the windows of every
convolution. Whether the bits are the same is for the caller to try (`codec.nn.linear`).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from codec import native


class Product:
    """A matrix `(out, in)` packed for products with rows.

    Weights that half precision holds exactly, as in an exported model, are kept in it: the same numbers in half the
    time, where reading them is what takes it.

    Args:
        matrix: float32 on the CPU.
        block: inputs after which a sum begins anew.
    """

    def __init__(self, matrix: Tensor, block: int) -> None:
        self.outputs, self.inputs = matrix.shape
        self._block = block
        level = _level()
        self._panel = level.lanes if self.outputs <= level.lanes else level.panel
        filled = F.pad(matrix, (0, 0, 0, -self.outputs % self._panel))
        panels = filled.unflatten(0, (-1, self._panel)).transpose(1, 2)  # (ceil(out / panel), in, panel)
        half = panels.half()
        self._half = torch.equal(half.float(), panels)
        self._panels = (half if self._half else panels).contiguous()
        self._run = level.convolve

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Rows `(M, in)` to `(M, out)`, with `bias` `(out,)` added."""
        y = torch.empty(x.shape[0], self.outputs)
        self.windows(x.contiguous(), y, bias, taps=1, step=self.inputs)
        return y

    def windows(
        self, x: Tensor, y: Tensor, bias: Tensor | None, *, taps: int, step: int, spread: int = 0
    ) -> None:
        """Rows of `y` `(..., out)` from the windows of `x`, both contiguous in memory.

        Args:
            x: where the first window begins.
            y: written.
            bias: `(out,)`.
            taps: pieces of a window, each of in / taps numbers in a row.
            step: numbers from window to window.
            spread: numbers from piece to piece.
        """
        self._run(
            x.data_ptr(),
            self._panels.data_ptr(),
            self._half,
            self._panel,
            None if bias is None else bias.data_ptr(),
            y.data_ptr(),
            y.numel() // self.outputs,
            self.outputs,
            taps,
            self.inputs // taps,
            spread,
            step,
            self._block,
            torch.get_num_threads(),
        )


def elu(x: Tensor) -> Tensor:
    """`x` where it is positive, else `exp(x) - 1`, of a dense tensor, where `has_functions()`."""
    y = torch.empty_like(x)
    _level().elu(x.data_ptr(), y.data_ptr(), x.numel())
    return y


def fits_recurrence(width: int) -> bool:
    """Whether there is a `Recurrence` of width C: a multiple of half a panel."""
    return width % (_level().panel // 2) == 0


class Recurrence:
    """The steps of an LSTM layer of width C, where `has_functions()`.

    Args:
        matrix: `(4 C, C)`, gates in the order input, forget, output, cell.
        block: inputs after which a sum begins anew.
    """

    def __init__(self, matrix: Tensor, block: int) -> None:
        self._width, self._block = matrix.shape[1], block
        panel = _level().panel
        self._panels = matrix.unflatten(0, (-1, panel)).transpose(1, 2).contiguous()

    def __call__(self, drive: Tensor, h: Tensor, c: Tensor) -> Tensor:
        """Outputs `(T, C)` of what drives the gates `(T, 4 C)`; `h` and `c` `(C,)` are read and written."""
        steps = len(drive)
        y, gates = torch.empty(steps, self._width), torch.empty(4 * self._width)
        pointers = (drive, self._panels, h, c, y, gates)
        _level().lstm(*(part.data_ptr() for part in pointers), steps, self._width, self._block)
        return y


def available() -> bool:
    """Whether the native extension is there and may be used."""
    return native.level() is not None


@functools.cache
def has_functions() -> bool:
    """Whether the framework's own exp and its like can be called from the extension, where that is `available()`."""
    level = _level()
    try:
        torch_library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        names = (f"Sleef_expf{level.lanes}_u10", "VMSEXP_64_", "VMSTANH_64_")
        level.functions(*(ctypes.cast(torch_library[name], ctypes.c_void_p) for name in names))
    except (OSError, AttributeError):
        return False
    return True


def _level() -> native.Level:
    level = native.level()
    assert level is not None, "call it only where `available()`"
    return level
