"""k-means start of a codebook."""

import torch
from torch import Tensor

from codec.quantizers.codebook.assign import nearest


@torch.no_grad()
def kmeans(x: Tensor, size: int, iterations: int = 10, limit: int = 64) -> Tensor:
    """Centres (size, d) of vectors (M, d), M at least 1.

    Few vectors per centre would be learned by heart, and a residual of nothing passed on to the next book. With
    fewer than four each, centres are drawn from around the vectors instead: pulled to the mean, and moved by
    the difference of two others, so that they spread a little less than the data in every direction.

    Args:
        x: (M, d) vectors.
        size: number of centres.
        iterations: Lloyd iterations.
        limit: at most this many vectors per centre are looked at.
    """
    x = x[torch.randperm(len(x), device=x.device)[: limit * size]]
    if len(x) < 4 * size:
        base, plus, minus = (x[torch.randint(len(x), (size,), device=x.device)] for _ in range(3))
        base[: len(x)] = x[:size]
        return x.mean(0) + 0.5 * (base - x.mean(0)) + 0.45 * (plus - minus)
    centres = x[:size].clone()
    for _ in range(iterations):
        index = nearest(x, centres)
        counts = torch.bincount(index, minlength=size).to(x.dtype)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, index, x)
        spare = x[torch.randint(len(x), (size,), device=x.device)]
        centres = torch.where(counts == 0, spare, sums / counts.clamp_min(1))
    return centres
