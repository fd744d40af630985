"""Search at encode time: beams over codebooks of any kind, and coordinate descent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from codec.quantizers.codebook import Codebook

Stages = Sequence[tuple[Codebook, tuple[int, int]]]
_BLOCK = 1 << 24  # elements of a temporary


def search_beam(x: Tensor, stages: Stages, beam: int) -> Tensor:
    """Codes (M, K) of vectors (M, D), keeping ``beam`` partial sequences (arXiv 2509.19186).

    Each partial sequence proposes its ``beam`` nearest codes in the codebook's own search space; the sequences with the
    smallest error in the latent space survive. One beam is the greedy search. The specification for codebooks without a
    search space of their own is `codec.ops`.
    """
    if not len(x):
        return torch.zeros(0, len(stages), dtype=torch.int64, device=x.device)
    widest = max(codebook.size for codebook, _ in stages) + beam * x.shape[1]
    rows = max(1, _BLOCK // (beam * widest))
    search = _search_greedy if beam == 1 else _search_block
    return torch.cat([search(part, stages, beam) for part in x.split(rows)])


def _search_greedy(x: Tensor, stages: Stages, beam: int) -> Tensor:
    residual = x.clone()
    codes = torch.zeros(len(x), len(stages), dtype=torch.int64, device=x.device)
    for k, (codebook, (low, high)) in enumerate(stages):
        codes[:, k] = codebook.search(residual[:, low:high])
        residual[:, low:high] -= codebook.embed(codes[:, k])
    return codes


def _search_block(x: Tensor, stages: Stages, beam: int) -> Tensor:
    residual = x[:, None]  # (M, P, D)
    paths = torch.zeros(len(x), 1, 0, dtype=torch.int64, device=x.device)
    for codebook, (low, high) in stages:
        part = residual[..., low:high]
        tried = codebook.candidates(part.flatten(0, 1), min(beam, codebook.size)).view(
            *part.shape[:2], -1
        )  # (M, P, W)
        after = part[:, :, None] - codebook.embed(tried.flatten()).view(*tried.shape, -1)  # (M, P, W, d)
        # the error outside the span does not depend on the new code, but on the path
        outside = residual.square().sum(-1) - part.square().sum(-1)
        error = (after.square().sum(-1) + outside[..., None]).flatten(1)
        best = error.topk(min(beam, error.shape[1]), dim=1, largest=False).indices
        parent = best // tried.shape[2]
        residual = _pick(residual, parent)
        residual[..., low:high] = _pick(after.flatten(1, 2), best)
        paths = torch.cat([_pick(paths, parent), _pick(tried.flatten(1)[..., None], best)], 2)
    return paths[:, 0]


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """``values[m, index[m, p]]``: values (M, P, C), index (M, p), gives (M, p, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def refine_codes(x: Tensor, codes: Tensor, stages: Stages, sweeps: int) -> Tensor:
    """Coordinate descent (the code adjustment of SAQ, arXiv 2509.12086): choose each code again, given the others.

    A change is kept only where it lowers the error, so that no sweep raises it.
    """
    codes = codes.clone()
    vectors = [codebook.embed(codes[:, k]) for k, (codebook, _) in enumerate(stages)]
    for _ in range(sweeps):
        changed = False
        for k, (codebook, (low, high)) in enumerate(stages):
            target = x[:, low:high].clone()
            for j, (_, (start, end)) in enumerate(stages):
                first, last = max(low, start), min(high, end)
                if j != k and first < last:
                    target[:, first - low : last - low] -= vectors[j][:, first - start : last - start]
            index = codebook.search(target)
            vector = codebook.embed(index)
            better = (target - vector).square().sum(1) < (target - vectors[k]).square().sum(1)
            codes[:, k] = torch.where(better, index, codes[:, k])
            vectors[k] = torch.where(better[:, None], vector, vectors[k])
            changed = changed or bool(better.any())
        if not changed:
            break
    return codes
