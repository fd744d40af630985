"""Linear maps whose rows do not depend on how many rows come with them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")
Arrange = Callable[[Tensor], Tensor]

# rows that the weights are packed for: the order of sums depends on it, so it is always the same
PACKED_FOR = 256
# rows that need no trial: finding out takes longer than a short file
ALWAYS_ENOUGH = 128

_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, arrange: Arrange | None = None) -> Tensor:
    """`F.linear` that gives one row the same bits alone as in company (float32, CPU, inference).

    Matrix libraries switch to another summation order when there are few rows, so one streamed frame would differ
    in its last bits from the same frame inside a file, and a code on the boundary would flip. How few depends on
    the matrix and the machine: it is found out once, and smaller inputs are filled up with rows of zeros. The
    weights are packed for oneDNN, which sums alike for any number of threads.
    Training, other types and other devices are left alone.

    Args:
        x: `(..., in)`.
        weight: a parameter; `(out, in)` once arranged.
        bias: `(out,)`.
        arrange: makes the matrix from the parameter; a plain function, for the packed result is kept by it.
    """
    if not exact(x):
        return F.linear(x, weight if arrange is None else arrange(weight), bias)
    flat = x.reshape(-1, x.shape[-1])
    rows = flat.shape[0]
    width, matrix = kept(weight, _packer(arrange))
    if bias is not None and width == 1:
        bias = F.pad(bias, (0, 1))
    if rows < ALWAYS_ENOUGH:
        fewest = _fewest_rows(flat.shape[1], max(width, 2), torch.get_num_threads())
        flat = F.pad(flat, (0, 0, 0, max(0, fewest - rows)))
    y = _product(flat, matrix, bias)
    return y[:rows, :width].view(*x.shape[:-1], width)


def exact(x: Tensor) -> bool:
    """Whether to compute on `x` so that no frame depends on its company: inference in float32 on the CPU."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
    )


def kept(weight: Tensor, make: Callable[[Tensor], T]) -> T:
    """`make(weight)`, kept as long as the parameter lives unchanged."""
    if weight.is_inference():
        return make(weight)
    stamp = (weight._version, weight.data_ptr())
    forms = _kept.get(weight)
    if forms is None or forms[0] != stamp:
        forms = (stamp, {})
        _kept[weight] = forms
    if make not in forms[1]:
        forms[1][make] = make(weight.detach())
    return forms[1][make]


@functools.cache
def _packer(arrange: Arrange | None) -> Callable[[Tensor], tuple[int, Tensor]]:
    """A function from a parameter to its number of outputs and the packed matrix."""

    def pack(weight: Tensor) -> tuple[int, Tensor]:
        matrix = weight if arrange is None else arrange(weight)
        width = matrix.shape[0]
        if width == 1:  # a single output would take a path of its own
            matrix = F.pad(matrix, (0, 0, 0, 1))
        return width, torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), PACKED_FOR)

    return pack


def _product(x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")


@functools.cache
def _fewest_rows(inputs: int, outputs: int, threads: int) -> int:
    """The number of rows from which on a row is the same bits in any company, by trial with this many threads."""
    random = torch.Generator().manual_seed(0)
    matrix = _packer(None)(torch.randn(outputs, inputs, generator=random))[1]
    x = torch.randn(200, inputs, generator=random)
    whole = _product(x, matrix, None)
    good = ALWAYS_ENOUGH
    for rows in (64, 48, 32, 24, *range(16, 0, -1)):
        if not torch.equal(_product(x[:rows], matrix, None), whole[:rows]):
            break
        good = rows
    return good


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return linear(x, self.weight, self.bias)
