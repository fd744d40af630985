"""The search in plain torch, on any device: scores by matrix product, exact distances where scores are close.

The score of code vector c for a vector x is ``x.c - |c|^2 / 2``, that is ``(|x|^2 - |x - c|^2) / 2``: the nearest
has the highest. In float32, with ``u = 2^-24`` and whatever the order of additions, a computed score is off by at
most ``(D + 6) u (|x||c| + |c|^2 / 2)`` (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), or by
``2^-7 |x||c|`` more where torch has been told that matrix products may use fewer bits. Codes whose scores are
within twice that of the best are compared by the distances of `reference`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from codec.ops.reference import squared_distances

_BLOCK = {"cpu": 1 << 19}  # scores at a time; only speed and memory depend on it
_LARGE_BLOCK = 1 << 26


def rvq_encode(x: Tensor, codebooks: Tensor, beam: int = 1) -> Tensor:
    """Codes of G independent groups: x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)`` int64."""
    with torch.autocast(x.device.type, enabled=False):
        pairs = zip(x.float(), codebooks.float(), strict=True)
        return torch.stack([_encode(a, b, beam) for a, b in pairs])


@dataclass(frozen=True, slots=True)
class _Prepared:
    vectors: Tensor  # (V, D)
    scored: Tensor  # (V, D), zeros where a vector is no number: it has no score
    half: Tensor  # (V,) half the squared norms, infinite there
    linear: float  # a score of x is off by at most constant + linear |x| + quadratic |x|^2
    constant: float
    quadratic: float


def _prepare(codebooks: Tensor) -> list[_Prepared]:
    dim = codebooks.shape[-1]
    half = torch.linalg.vecdot(codebooks, codebooks).mul_(0.5)  # (K, V)
    scored, longest = codebooks, half.amax(-1)
    if not longest.isfinite().all():
        finite = codebooks.isfinite().all(-1)
        scored = codebooks.masked_fill(~finite[..., None], 0)
        longest = half.masked_fill(~finite, 0).amax(-1)
        half = half.masked_fill(~finite, torch.inf)
    unit, double = (dim + 6) * 2.0**-24, (dim + 64) * 2.0**-54
    lost = 0.0 if _full_precision(codebooks.device) else 2.0**-7
    prepared = []
    for vectors, zeroed, halves, square in zip(codebooks, scored, half, longest.tolist(), strict=True):
        linear, constant = (unit + lost) * (2 * square) ** 0.5, (unit + 2 * double) * square + 1e-30
        prepared.append(_Prepared(vectors, zeroed, halves, linear, constant, double))
    return prepared


def _encode(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    size = codebooks.shape[1]
    codes = torch.zeros((len(x), len(codebooks)), dtype=torch.int64, device=x.device)
    prepared = _prepare(codebooks)
    rows = max(1, _BLOCK.get(x.device.type, _LARGE_BLOCK) // (size * beam))
    for start in range(0, len(x), rows):
        residual = x[start : start + rows]
        if beam == 1:
            for k, codebook in enumerate(prepared):
                score = torch.addmm(codebook.half, residual, codebook.scored.t(), beta=-1)
                chosen = _nearest(score, residual[:, None], codebook, 1)[:, 0]
                codes[start : start + rows, k] = chosen
                residual = residual - codebook.vectors[chosen]
            continue
        residual = residual[:, None]  # (m, P, D), P partial sequences for each vector
        paths = codes.new_zeros((len(residual), 1, 0))
        for codebook in prepared:
            score = torch.addmm(codebook.half, residual.flatten(0, 1), codebook.scored.t(), beta=-1)
            chosen = _nearest(score, residual, codebook, min(beam, size * residual.shape[1]))
            parent, code = chosen // size, chosen % size
            paths = torch.cat([_pick(paths, parent), code[..., None]], dim=-1)
            residual = _pick(residual, parent) - codebook.vectors[code]
        codes[start : start + rows] = paths[:, 0]
    return codes


def _nearest(score: Tensor, residual: Tensor, codebook: _Prepared, keep: int) -> Tensor:
    """The ``keep`` nearest as ``path * V + code``, (m, keep), best first; score (m * P, V), residual (m, P, D)."""
    count, paths, dim = residual.shape
    norm = torch.linalg.vector_norm(residual, dim=-1)  # (m, P)
    bound = codebook.constant + norm * (codebook.linear + norm * codebook.quadratic)
    if paths > 1:  # scores of different vectors are compared as distances
        square = norm * norm / 2
        score = score - square.flatten()[:, None]
        bound += (dim + 6) * 2.0**-22 * square
    score = score.view(count, -1)
    last = score.amax(-1) if keep == 1 else score.topk(keep).values[:, -1]
    limit = torch.sub(last, bound.amax(-1), alpha=2.5)
    # written so that whatever is compared with what is no number stays in
    row, chosen = (~(score < limit[:, None])).nonzero(as_tuple=True)
    if len(row) == count:
        return chosen[:, None]
    number = torch.bincount(row, minlength=count)
    best = chosen[number.cumsum(0) - number][:, None].repeat(1, keep)
    several = number > 1
    close = several[row].nonzero()[:, 0]
    row, chosen = row[close], chosen[close]
    distance = _distances(residual, codebook.vectors, row, chosen)
    order = distance.sort(stable=True).indices
    order = order[row[order].sort(stable=True).indices]  # by row, then distance, then index
    first = torch.searchsorted(row, several.nonzero()[:, 0])
    best[several] = chosen[order][first[:, None] + torch.arange(keep, device=row.device)]
    return best


def _distances(residual: Tensor, codebook: Tensor, row: Tensor, chosen: Tensor) -> Tensor:
    """The specification's distance of each candidate."""
    step = max(1, _LARGE_BLOCK // (64 * codebook.shape[1]))
    parts = []
    for r, c in zip(row.split(step), chosen.split(step), strict=True):
        path, code = c // len(codebook), c % len(codebook)
        parts.append(squared_distances(residual[r, path][:, None], codebook[code][:, None])[:, 0])
    return torch.cat(parts)


def _full_precision(device: torch.device) -> bool:
    """Whether float32 matrix products are float32, or have been allowed to be less."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    # in older releases there is one setting for all devices
    if not hasattr(getattr(backend, "matmul", None), "fp32_precision"):
        return torch.get_float32_matmul_precision() == "highest"
    return backend.matmul.fp32_precision in ("none", "ieee")


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """``values[m, index[m, p]]``: values ``(m, P, C)``, index ``(m, p)`` -> ``(m, p, C)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
