"""Revive: what happens to codes that nothing chooses (nothing, threshold replacement)."""

import torch
from torch import Tensor


class Revive:
    """What happens to unused codes.

    Attributes:
        every: steps between two looks.
    """

    every = 0

    def propose(self, codes: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """New code vectors (V, d), and which codes (V,) were placed anew.

        Args:
            codes: (V, d) current code vectors.
            counts: (V,) running mean of the vectors per step that chose each code.
            x: (M, d) queries of this step, M at least 1.
        """
        raise NotImplementedError


class Never(Revive):
    """Unused codes stay unused."""


class Threshold(Revive):
    """Codes used less than ``ratio`` of the uniform share move onto vectors of the batch (Dhariwal et al., arXiv 2005.00341).

    Args:
        ratio: the threshold as a share of uniform use, so that it does not depend on batch and codebook size.
        every: steps between two looks.
    """

    def __init__(self, ratio: float = 0.1, every: int = 10) -> None:
        self.ratio = ratio
        self.every = every

    def propose(self, codes: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        dead = counts < self.ratio * counts.mean()
        # the n-th dead code gets the n-th vector of a shuffled batch: no two alike while vectors last
        order = torch.randperm(len(x), device=x.device)[(dead.cumsum(0) - 1).clamp_min(0) % len(x)]
        return torch.where(dead[:, None], x[order], codes), dead
