"""Residual vector quantization as one operator: the same codes from every implementation, in any batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from codec.ops import plain, reference

__all__ = ["RVQTraining", "rvq_encode", "rvq_encode_train"]

MAX_CODES = 65_536
MAX_BEAM = 16


@dataclass(frozen=True, slots=True)
class RVQTraining:
    """Codes with what a training step derives from them; a leading G on everything where there are groups."""

    codes: Tensor  # (M, K) int64
    quantized: Tensor  # (M, D) float32, the sum of the chosen code vectors; its gradient goes straight to x
    counts: Tensor  # (K, V) float32, vectors that chose each code
    sums: Tensor  # (K, V, D) float32, sum of the stage inputs that chose each code (what an EMA averages)


def rvq_encode(x: Tensor, codebooks: Tensor, *, beam: int = 1) -> Tensor:
    """Codes of vectors under residual vector quantization (SoundStream, arXiv 2107.03312).

    Each stage takes the nearest code vector of its codebook (lowest index among equals) and hands the difference
    to the next stage. :mod:`codec.ops.reference` defines the result exactly; it does not depend on the batch
    or the device. Cosine look-up is this op on normalised vectors and codebooks; a masked codebook is one with zeros
    outside its channels; shared codebooks are an expanded view; codebooks of unequal size are filled up with rows of
    infinity, which are never chosen.

    Args:
        x: vectors ``(M, D)``, or ``(G, M, D)`` for G independent groups; float16, bfloat16 or float32.
        codebooks: ``(K, V, D)`` or ``(G, K, V, D)``, on the device of ``x``; V at most 65,536.
        beam: partial code sequences kept per vector, 1 (greedy) to 16 (arXiv 2509.19186).

    Returns:
        int64 codes ``(M, K)`` or ``(G, M, K)``.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or ``beam`` is out of range.
    """
    _check(x, codebooks, beam)
    # the registered operator is for compilers: calling it loads torch._dynamo, two seconds of a short command
    run = torch.ops.codec.rvq_encode if torch.compiler.is_compiling() else _run
    if x.dim() == 3:
        return run(x, codebooks, beam)
    return run(x[None], codebooks[None], beam)[0]


def rvq_encode_train(x: Tensor, codebooks: Tensor) -> RVQTraining:
    """Greedy codes as :func:`rvq_encode`, with the quantized vectors and the sums an EMA of the codebooks needs.

    Args and errors as in :func:`rvq_encode`. Only ``quantized`` carries a gradient: the straight-through
    identity to ``x``; detach ``x`` to build another bridge.
    """
    _check(x, codebooks, 1)
    if x.dim() == 3:
        quantized, codes, counts, sums = torch.ops.codec.rvq_encode_train(x, codebooks)
    else:
        outputs = torch.ops.codec.rvq_encode_train(x[None], codebooks[None])
        quantized, codes, counts, sums = (t[0] for t in outputs)
    return RVQTraining(codes, quantized, counts, sums)


def _check(x: Tensor, codebooks: Tensor, beam: int) -> None:
    """Raise ValueError with one sentence for anything the op does not define."""
    if x.dim() not in (2, 3) or codebooks.dim() != x.dim() + 1:
        raise ValueError(
            f"x must be (M, D) with codebooks (K, V, D), or (G, M, D) with (G, K, V, D); "
            f"got {tuple(x.shape)} and {tuple(codebooks.shape)}"
        )
    if x.shape[-1] != codebooks.shape[-1]:
        raise ValueError(f"x has width {x.shape[-1]} but the code vectors have width {codebooks.shape[-1]}")
    if x.dim() == 3 and x.shape[0] != codebooks.shape[0]:
        raise ValueError(f"x has {x.shape[0]} groups but there are codebooks for {codebooks.shape[0]}")
    if not 1 <= codebooks.shape[-2] <= MAX_CODES:
        raise ValueError(f"a codebook has 1 to {MAX_CODES:,} codes; got {codebooks.shape[-2]:,}")
    if x.device != codebooks.device:
        raise ValueError(f"x is on {x.device} but the codebooks are on {codebooks.device}")
    if not (x.is_floating_point() and codebooks.is_floating_point()):
        raise ValueError(f"x and codebooks must be floating point; got {x.dtype} and {codebooks.dtype}")
    if not 1 <= beam <= MAX_BEAM:
        raise ValueError(f"beam must be 1 to {MAX_BEAM}; got {beam}")


def _run(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    """x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)``."""
    if x.device.type == "cpu":
        from codec.ops import cpu  # not sooner: `python -m codec.ops.kernel` must find it unimported

        return cpu.rvq_encode(x, codebooks, beam)
    if x.device.type == "cuda":
        from codec.ops import cuda

        return cuda.rvq_encode(x, codebooks, beam)
    return plain.rvq_encode(x, codebooks, beam)


_rvq_encode = torch.library.custom_op("codec::rvq_encode", _run, mutates_args=())


@_rvq_encode.register_fake
def _(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], codebooks.shape[1]), dtype=torch.int64)


@torch.library.custom_op("codec::rvq_encode_train", mutates_args=())
def _rvq_encode_train(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> quantized, codes, counts, sums."""
    codes = _run(x, codebooks, 1)
    if x.device.type == "cuda":
        from codec.ops import cuda

        quantized, counts, sums = cuda.statistics(x, codebooks, codes)
    else:
        quantized, counts, sums = reference.statistics(x, codebooks, codes)
    return quantized, codes, counts, sums


@_rvq_encode_train.register_fake
def _(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    codes = x.new_empty((x.shape[0], x.shape[1], codebooks.shape[1]), dtype=torch.int64)
    quantized = x.new_empty(x.shape, dtype=torch.float32)
    counts = x.new_empty(codebooks.shape[:3], dtype=torch.float32)
    return quantized, codes, counts, x.new_empty(codebooks.shape, dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.dtype = inputs[0].dtype
    ctx.mark_non_differentiable(*output[1:])


def _straight_through(ctx: Any, quantized: Tensor, *_: None) -> tuple[Tensor, None]:
    return quantized.to(ctx.dtype), None


_rvq_encode_train.register_autograd(_straight_through, setup_context=_remember)
