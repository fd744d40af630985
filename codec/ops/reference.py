"""The specification of residual vector quantization: which code every implementation must choose.

Arithmetic. Vectors and code vectors are float32 (half precision is widened, which is exact). The squared
distance is evaluated in float64 and in one fixed order: eight running sums, sum ``l`` taking the elements
``l``, ``l + 8``, ``l + 16``, .. one after the other (a width that is no multiple of eight is filled up with
zeros), then ``((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))``; every difference, product and sum is
rounded by itself, never fused. The residual is subtracted in float32. Nothing here depends on how many
vectors are encoded together, on blocking or on threads, so neither do the codes: the same vector has the same
codes in any batch and on any device. (Distances evaluated in float32 would not do: their rounding, some D
units in the last place, would have to be imitated everywhere, and they overflow or vanish at scales that
float32 vectors have.)

Choice. The smallest distance wins, the lowest index among equals. A distance that is no number counts as
infinite, so a vector with a non-finite element has code 0 in every stage. With a beam the ``beam`` best
partial code sequences are kept, by accumulated squared error, then by the rank of their prefix, then by index
(arXiv 2509.19186); the codes returned are those of the best complete sequence.

This file is for reading and for testing against; it is slow.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 8
_BLOCK = 1 << 20  # elements of a temporary; only speed and memory depend on it


def squared_distances(x: Tensor, codebook: Tensor) -> Tensor:
    """Squared Euclidean distances in the order of additions that the module defines.

    Args:
        x: vectors ``(..., 1, D)``, float32.
        codebook: code vectors ``(..., V, D)``, float32, or one candidate per vector; the leading axes broadcast.

    Returns:
        float64 ``(..., V)``; not-a-number is replaced by infinity.
    """
    pad = -x.shape[-1] % LANES
    x, codebook = F.pad(x, (0, pad)).double(), F.pad(codebook, (0, pad)).double()
    sums: Tensor | None = None
    for a, b in zip(x.split(LANES, dim=-1), codebook.split(LANES, dim=-1), strict=True):
        difference = a - b
        squares = difference * difference
        sums = squares if sums is None else sums + squares
    assert sums is not None
    while sums.shape[-1] > 1:
        low, high = sums.chunk(2, dim=-1)
        sums = low + high
    return sums.squeeze(-1).nan_to_num(nan=torch.inf, posinf=torch.inf)


def encode_greedy(x: Tensor, codebooks: Tensor) -> Tensor:
    """Nearest code vector, subtract, next stage: x ``(M, D)``, codebooks ``(K, V, D)`` -> ``(M, K)``."""
    codes = x.new_empty((len(x), len(codebooks)), dtype=torch.int64)
    rows = max(1, _BLOCK // (codebooks.shape[1] * LANES))
    for start in range(0, len(x), rows):
        residual = x[start : start + rows]
        for stage, codebook in enumerate(codebooks):
            chosen = squared_distances(residual[:, None], codebook).argmin(dim=-1)
            codes[start : start + rows, stage] = chosen
            residual = residual - codebook[chosen]
    return codes


def encode_beam(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    """The ``beam`` best partial sequences survive each stage; shapes as in :func:`encode_greedy`."""
    size = codebooks.shape[1]
    codes = x.new_empty((len(x), len(codebooks)), dtype=torch.int64)
    rows = max(1, _BLOCK // (beam * size * LANES))
    for start in range(0, len(x), rows):
        residual = x[start : start + rows, None]  # (m, paths, D)
        paths = codes.new_empty((len(residual), 1, 0))
        for codebook in codebooks:
            error = squared_distances(residual[:, :, None], codebook).flatten(1)  # (m, paths * V)
            order = error.sort(dim=-1, stable=True).indices[:, :beam]
            parent, chosen = order // size, order % size
            paths = torch.cat([_pick(paths, parent), chosen[..., None]], dim=-1)
            residual = _pick(residual, parent) - codebook[chosen]
        codes[start : start + rows] = paths[:, 0]
    return codes


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """``values[m, index[m, p]]``: values ``(m, P, C)``, index ``(m, p)`` -> ``(m, p, C)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def rvq_encode(x: Tensor, codebooks: Tensor, beam: int = 1) -> Tensor:
    """Codes of G independent groups: x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)`` int64."""
    x, codebooks = x.float(), codebooks.float()
    if beam == 1:
        return torch.stack([encode_greedy(a, b) for a, b in zip(x, codebooks, strict=True)])
    return torch.stack([encode_beam(a, b, beam) for a, b in zip(x, codebooks, strict=True)])


def statistics(x: Tensor, codebooks: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What training needs of codes already chosen; shapes as in :func:`rvq_encode`, all results float32.

    Returns:
        The sum of the chosen code vectors ``(G, M, D)``, added stage by stage; how many vectors chose each
        code ``(G, K, V)``; and the sum of the residuals that chose it ``(G, K, V, D)``.
    """
    residual, codebooks = x.float(), codebooks.float()
    groups, stages, size, dim = codebooks.shape
    quantized = torch.zeros_like(residual)
    counts = residual.new_zeros((groups, stages, size))
    sums = residual.new_zeros((groups, stages, size, dim))
    for stage in range(stages):
        index = codes[:, :, stage]
        wide = index[..., None].expand(-1, -1, dim)
        counts[:, stage].scatter_add_(1, index, torch.ones_like(index, dtype=counts.dtype))
        sums[:, stage].scatter_add_(1, wide, residual)
        chosen = codebooks[:, stage].gather(1, wide)
        quantized, residual = quantized + chosen, residual - chosen
    return quantized, counts, sums
