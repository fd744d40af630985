"""k-means start of a codebook."""

import torch
from torch import Tensor

from codec.quantizers.codebook.assign import nearest


@torch.no_grad()
def kmeans(x: Tensor, size: int, iterations: int = 10, limit: int = 64) -> Tensor:
    """Centres (size, d) of vectors (M, d), M at least 1.

    With fewer vectors than centres, the rest are vectors drawn again, moved by a little noise.

    Args:
        x: (M, d) vectors.
        size: number of centres.
        iterations: Lloyd iterations.
        limit: at most this many vectors per centre are looked at.
    """
    x = x[torch.randperm(len(x), device=x.device)[: limit * size]]
    if len(x) < size:
        again = x[torch.randint(len(x), (size - len(x),), device=x.device)]
        noise = torch.randn_like(again) * x.std(0, correction=0) * 0.1
        return torch.cat([x, again + noise])
    centres = x[:size].clone()
    for _ in range(iterations if len(x) > size else 0):
        index = nearest(x, centres)
        counts = torch.bincount(index, minlength=size).to(x.dtype)[:, None]
        sums = torch.zeros_like(centres).index_add_(0, index, x)
        empty = counts == 0
        spare = x[torch.randint(len(x), (size,), device=x.device)]
        centres = torch.where(empty, spare, sums / counts.clamp_min(1))
    return centres
