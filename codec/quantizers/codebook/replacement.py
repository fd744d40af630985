"""Dead-code replacement: what happens to codes that nothing chooses (nothing, threshold, CVQ)."""

import torch
from torch import Tensor

from codec.quantizers.codebook.assignment import scores


class Replacement:
    """What happens to dead codes, those that nothing chooses.

    Attributes:
        every: steps between two looks; 0 means never.
    """

    every = 0

    def propose(self, codes: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New code vectors (V, d), which codes moved (V,), and their new counts (V,).

        Args:
            codes: (V, d) current code vectors.
            counts: (V,) running mean of the vectors per step that chose each code.
            x: (M, d) projected vectors of this step, M at least 1.
        """
        raise NotImplementedError


class Never(Replacement):
    """Dead codes stay dead."""


class Threshold(Replacement):
    """Codes used less than a share of the uniform use move onto vectors of the batch (arXiv 2005.00341).

    One vector takes one code: where the batch has fewer vectors than there are such codes, the others stay until later.

    Args:
        ratio: that share; being relative, it does not depend on batch and codebook size.
        every: steps between two looks.
    """

    def __init__(self, ratio: float = 0.1, every: int = 10) -> None:
        if not 0 < ratio < 1 or every < 1:
            raise ValueError(
                f"ratio must lie between 0 and 1 and every be at least 1, not {ratio} and {every}"
            )
        self.ratio, self.every = ratio, every

    def propose(self, codes: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        share = counts.mean()
        dead = counts < self.ratio * share
        # the n-th dead code gets the n-th vector of a shuffled batch; when those run out, the other dead codes wait for
        # the next look: of two codes on one vector, the second would never be chosen
        number = dead.cumsum(0) - 1
        moved = dead & (number < len(x))
        order = torch.randperm(len(x), device=x.device)[number.clamp(0, len(x) - 1)]
        return torch.where(moved[:, None], x[order], codes), moved, torch.where(moved, share, counts)


class CVQ(Replacement):
    """Each code moves towards an anchor among the vectors, the more the less it is used (CVQ, arXiv 2307.15139).

    Args:
        anchor: which vector a code gets: ``random``, ``closest``, or ``probable`` (drawn, near ones more often).
        decay: the gamma of the paper's rule alpha = exp(-10 K N / (1 - gamma)), N the code's share of use.
    """

    every = 1

    def __init__(self, anchor: str = "random", decay: float = 0.99) -> None:
        if anchor not in ("random", "closest", "probable"):
            raise ValueError(f"anchor is random, closest or probable, not {anchor!r}")
        self.anchor, self.decay = anchor, decay

    def propose(self, codes: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        relative = counts / counts.mean().clamp_min(1e-12)
        alpha = torch.exp(-10 * relative / (1 - self.decay) - 1e-3)
        if self.anchor == "random":
            chosen = torch.randint(len(x), (len(codes),), device=x.device)
        elif self.anchor == "closest":
            chosen = scores(codes, x).argmax(1)
        else:
            chosen = torch.multinomial((2 * scores(codes, x)).softmax(1), 1)[:, 0]
        moved = alpha > 1e-3
        new = torch.where(moved[:, None], codes.lerp(x[chosen], alpha[:, None]), codes)
        return new, moved, counts
