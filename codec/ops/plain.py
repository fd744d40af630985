"""The greedy search in plain torch: scores by matrix product, the specification's distances where those are close.

The score of code vector c for a vector x is ``x.c - |c|^2 / 2``, that is ``(|x|^2 - |x - c|^2) / 2``: the nearest has
the highest. In float32, with ``u = 2^-24`` and whatever the order of additions, both parts are sums of D products, and
a computed score is off by at most ``(D + 6) u (|x||c| + |c|^2 / 2)`` (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1). A code whose score leads by more than twice that is the one `reference` chooses; rows without such a
leader are settled by `reference`.
"""

import torch
from torch import Tensor

from codec.ops import reference

_BLOCK = 1 << 18  # scores at a time, so that they stay in the cache; only speed depends on it
_TINY = 1e-30  # what may underflow


def encode_greedy(x: Tensor, codebooks: Tensor) -> Tensor:
    """Codes as `reference.encode_greedy` gives them: x ``(M, D)``, codebooks ``(K, V, D)`` float32 -> ``(M, K)``."""
    codes = x.new_empty((len(x), len(codebooks)), dtype=torch.int64)
    halves = torch.linalg.vecdot(codebooks, codebooks).mul_(0.5)  # (K, V)
    longest = halves.amax(-1).mul(2).sqrt()
    unit = (
        2 * (x.shape[1] + 6) * 2.0**-24 * 1.01
    )  # twice the bound, and a little for the bound's own rounding
    rows = max(1, _BLOCK // codebooks.shape[1])
    for start in range(0, len(x), rows):
        residual = x[start : start + rows]
        for stage, book in enumerate(codebooks):
            scores = torch.addmm(halves[stage], residual, book.t(), beta=-1)
            best, chosen = scores.max(dim=-1)
            norm = torch.linalg.vector_norm(residual, dim=-1)
            near = best - unit * (norm * longest[stage] + halves[stage].amax()) - _TINY
            # not one code but several, or none where something is no number
            open_rows = ((scores >= near[:, None]).sum(-1) != 1).nonzero()[:, 0]
            if len(open_rows):
                chosen[open_rows] = reference.encode_greedy(residual[open_rows], book[None])[:, 0]
            codes[start : start + rows, stage] = chosen
            residual = residual - book[chosen]
    return codes


def rvq_encode(x: Tensor, codebooks: Tensor, beam: int = 1) -> Tensor:
    """Codes of G independent groups: x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)`` int64."""
    if beam > 1:
        return reference.rvq_encode(x, codebooks, beam)
    with torch.autocast(x.device.type, enabled=False):
        pairs = zip(x.float(), codebooks.float(), strict=True)
        return torch.stack([encode_greedy(a, b) for a, b in pairs])
