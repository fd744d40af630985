"""Table, free: each code vector is its own parameter (or its own running mean)."""

import torch
from torch import Tensor, nn


class Table(nn.Module):
    """Where code vectors come from. A table has ``weight`` (V, d) and turns it into codes.

    Attributes:
        writable: codes can be set to given vectors, so EMA and revival can move them.
        projects: the search space is not the latent space, so ``query`` and ``lift`` carry gradients.
    """

    writable = True
    projects = False

    def __init__(self, dim: int, size: int, *, trainable: bool) -> None:
        super().__init__()
        weight = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if trainable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def codes(self) -> Tensor:
        """Code vectors (V, d) in the search space, with gradient."""
        return self.weight

    def query(self, x: Tensor) -> Tensor:
        """Latent vectors (M, D) in the search space (M, d)."""
        return x

    def lift(self, codes: Tensor) -> Tensor:
        """Vectors of the search space (M, d) as latent vectors (M, D)."""
        return codes

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        """Make ``codes()`` equal to the given (V, d), as far as the table can."""
        self.weight.copy_(codes)


class Free(Table):
    """Van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937."""
