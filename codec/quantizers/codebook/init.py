"""Initial values from the first vectors of training: k-means, scales of even levels, variances of random codes."""

from collections.abc import Callable

import torch
from torch import Tensor

from codec.quantizers.codebook.assignment import nearest

_ROWS = 8192  # vectors that are looked at


@torch.no_grad()
def kmeans(x: Tensor, size: int, iterations: int = 10, limit: int = 64) -> Tensor:
    """Centres (size, d) of vectors (M, d), M at least 1.

    With few vectors per centre the codes would be those vectors, and leave nothing to the next codebook. Below four
    each, centres are drawn from around the vectors instead: pulled to the mean, and moved by the difference of two
    others, so that they spread a little less than the data in every direction.

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


def reproduced(variances: Tensor, bits: float) -> Tensor:
    """Variances (d,) of the codes that code Gaussian channels of given variances (d,) best with so many bits.

    Reverse water-filling (Cover and Thomas, Elements of Information Theory, section 10.3.3): channels above the water
    keep it as their error, the others get no bits.
    """
    falling = variances.clamp_min(1e-12).sort(descending=True).values.log2()
    count = torch.arange(1, len(falling) + 1, device=falling.device)
    water = (falling.cumsum(0) - 2 * bits) / count  # its logarithm if the first channels are above it
    above = int((water < falling).sum())
    return (variances - water[max(0, above - 1)].exp2()).clamp_min(0)


def spaced(x: Tensor, scale: Tensor, levels: Tensor) -> Tensor:
    """Each channel of vectors (M, d) at the nearest of so many (d,) evenly spaced values from -scale to scale (d,)."""
    step = 2 * scale / (levels - 1)
    return ((x + scale) / step).round().clamp_min(0).minimum(levels - 1) * step - scale


def best_scale(x: Tensor, quantize: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The scale (d,) that brings ``quantize(x, scale)`` closest to x (M, d): up to four deviations of x, by tenths."""
    x = x[:: -(-len(x) // _ROWS)]
    tried = torch.linspace(0.1, 4.0, 40, device=x.device)[:, None] * x.std(0, correction=0).clamp_min(1e-6)
    errors = torch.stack([(quantize(x, scale) - x).square().mean(0) for scale in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]
