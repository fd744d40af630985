"""Linear maps whose rows do not depend on how many rows come with them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.version import Changing, Version, session, version
from codec.ops import layers

T = TypeVar("T")
Arrange = Callable[[Tensor], Tensor]

# rows that the weights are packed for: the order of sums depends on it, so it is always the same
PACKED_FOR = 256
# rows that need no trial: finding out takes longer than a short file
ALWAYS_ENOUGH = 128
# rows up to which compiled code is quicker than the framework
FEW = 8
# inputs after which the framework's sums may begin anew, depending on the matrix and the machine
BLOCKS = (1 << 62, 1024, 768, 512, 384, 256, 128, 64)


def _packs() -> bool:
    """Whether this build of torch has oneDNN and its packed products, which are no public interface."""
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(torch.eye(2), 2)
        product = torch.ops.mkldnn._linear_pointwise.default(torch.eye(2), packed, None, "none", [], "")
        return torch.equal(product, torch.eye(2))
    except (AttributeError, NotImplementedError, RuntimeError):
        return False


_HAS_ONEDNN = _packs()

_kept: dict[int, tuple[weakref.ref[Tensor], Version, dict[Any, Any]]] = {}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, arrange: Arrange | None = None) -> Tensor:
    """`F.linear` that gives one row the same bits alone as in company (float32, CPU, inference).

    Matrix libraries switch to another summation order when there are few rows, so one streamed frame would differ
    in its last bits from the same frame inside a file, and a code on the boundary would flip. How few depends on
    the matrix and the machine: it is found out once, and smaller inputs are filled up with rows of zeros, or go
    through compiled code that was seen to sum in the order of many rows. The weights are packed for oneDNN, which
    sums alike for any number of threads. Training, other types and other devices are left alone.

    Args:
        x: `(..., in)`.
        weight: a parameter; `(out, in)` once arranged.
        bias: `(out,)`.
        arrange: makes the matrix from the parameter; a plain function, for the packed result is kept by it.
    """
    if session.prepared and x.numel() <= FEW * x.shape[-1] and (known := _kept.get(id(weight))):
        matrix = known[2].get(_packer(arrange))
        if matrix is not None and matrix.quick is not None:
            y = torch.empty(*x.shape[:-1], matrix.outputs)
            matrix.quick.windows(x.contiguous(), y, bias, taps=1, step=matrix.inputs)
            return y
    if not exact(x):
        return F.linear(x, weight if arrange is None else arrange(weight), bias)
    matrix = packed(weight, arrange)
    return matrix.times(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], matrix.outputs)


def exact(x: Tensor) -> bool:
    """Whether to compute on `x` so that no frame depends on its company: inference in float32 on the CPU."""
    return (
        x.is_cpu
        and x.dtype is torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and _HAS_ONEDNN
    )


def kept(weight: Tensor, make: Callable[[Tensor], T]) -> T:
    """`make(weight)`, kept as long as the parameter lives unchanged."""
    if weight.is_inference():
        return make(weight)
    key = id(weight)
    found = _kept.get(key)
    if session.prepared and found is not None and make in found[2]:
        return found[2][make]
    stamp = version(weight)
    if found is None or found[1] != stamp or found[0]() is not weight:
        found = (weakref.ref(weight, lambda _: _kept.pop(key, None)), stamp, {})
        _kept[key] = found
    forms = found[2]
    if make not in forms:
        forms[make] = make(weight.detach())
    return forms[make]


def packed(weight: Tensor, arrange: Arrange | None = None) -> Matrix:
    """A parameter as a matrix that is ready for products, kept as long as it lives unchanged."""
    return kept(weight, _packer(arrange))


class Matrix:
    """A parameter, arranged as `(out, in)` and packed for products with rows, in the ways that are asked for.

    Attributes:
        inputs: in.
        outputs: out.
        quick: the same in compiled code, once it was asked for.
    """

    def __init__(self, weight: Tensor, arrange: Arrange | None) -> None:
        self._arrange = arrange
        self.outputs, self.inputs = self._arranged(weight).shape
        self._packed: Tensor | None = None
        self.quick: layers.Product | None = None

    def _arranged(self, weight: Tensor) -> Tensor:
        return weight if self._arrange is None else self._arrange(weight)

    def compiled(self, weight: Tensor) -> layers.Product | None:
        """The same in compiled code, if there is any that gives the bits of many rows."""
        if not layers.available():
            return None
        if self.quick is None and (block := compiled_block(self.inputs, self.outputs)):
            self.quick = layers.Product(self._arranged(weight), block)
        return self.quick

    def times(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Rows `(M, in)` to `(M, out)`."""
        rows = x.shape[0]
        if rows >= ALWAYS_ENOUGH:
            return self.product(x, weight, bias)
        quick = self.compiled(weight)
        if quick is not None and (rows <= FEW or rows < self._fewest()):
            return quick(x, bias)
        missing = self._fewest() - rows
        return (
            self.product(F.pad(x, (0, 0, 0, missing)), weight, bias)[:rows]
            if missing > 0
            else self.product(x, weight, bias)
        )

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The same in the order of sums that the number of rows suggests to the framework."""
        if self._packed is None:
            # a single output would take a path of its own
            filled = F.pad(self._arranged(weight), (0, 0, 0, max(0, 2 - self.outputs)))
            self._packed = torch.ops.mkldnn._reorder_linear_weight(filled.contiguous(), PACKED_FOR)
        if bias is not None and self.outputs == 1:
            bias = F.pad(bias, (0, 1))
        y = torch.ops.mkldnn._linear_pointwise.default(x, self._packed, bias, "none", [], "")
        return y if self.outputs > 1 else y[:, :1]

    def _fewest(self) -> int:
        return _fewest_rows(self.inputs, self.outputs, torch.get_num_threads())


@functools.cache
def _packer(arrange: Arrange | None) -> Callable[[Tensor], Matrix]:
    """A function from a parameter to its packed matrix."""
    return functools.partial(Matrix, arrange=arrange)


def _trial(inputs: int, outputs: int) -> tuple[Tensor, Tensor, Matrix]:
    """Many rows, a matrix of that size, and the same packed."""
    random = torch.Generator().manual_seed(0)
    matrix = torch.randn(outputs, inputs, generator=random)
    return torch.randn(200, inputs, generator=random), matrix, Matrix(matrix, None)


@functools.cache
def _fewest_rows(inputs: int, outputs: int, threads: int) -> int:
    """The number of rows from which on a row is the same bits in any company, by trial with this many threads."""
    x, matrix, packed = _trial(inputs, outputs)
    whole, good = packed.product(x, matrix, None), ALWAYS_ENOUGH
    for rows in (64, 48, 32, 24, *range(16, 0, -1)):
        if not torch.equal(packed.product(x[:rows], matrix, None), whole[:rows]):
            break
        good = rows
    return good


@functools.cache
def compiled_block(inputs: int, outputs: int) -> int | None:
    """How compiled code must sum to give the bits of many rows, by trial; None: it cannot."""
    x, matrix, packed = _trial(inputs, outputs)
    whole = packed.product(x, matrix, None)[:FEW]
    for block in BLOCKS:
        if torch.equal(layers.Product(matrix, block)(x[:FEW], None), whole):
            return block
    return None


class Linear(Changing, nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return linear(x, self.weight, self.bias)
