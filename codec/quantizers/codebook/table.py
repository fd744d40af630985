"""Table: where code vectors come from; here the base class and the free table."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.linear import Linear
from codec.quantizers.codebook.kmeans import kmeans


class Table(nn.Module):
    """Turns ``weight`` (V, d) into codes. Queries and codes live in the search space, latents outside it.

    Attributes:
        writable: codes can be set to given vectors at any time, so EMA and revival can move them.
        startable: codes can be set to given vectors before training.
        learned: codes also depend on parameters that only the optimiser can move.
        projects: the search space is not the latent space, so each pick carries its own gradient.
        spreads: codes that cannot be set can still take the spread of the first queries of training.
    """

    writable = True
    startable = True
    learned = False
    projects = False
    spreads = False
    weight: Tensor

    def __init__(self, dim: int, size: int, *, trainable: bool) -> None:
        super().__init__()
        weight = torch.empty(size, dim).uniform_(-1 / size, 1 / size)
        if trainable:
            self.weight = nn.Parameter(weight)
        else:
            self.register_buffer("weight", weight)

    def codes(self) -> Tensor:
        """Code vectors (V, d), with gradient."""
        return self.weight

    def query(self, x: Tensor) -> Tensor:
        """Latent vectors (M, D) as queries (M, d)."""
        return x

    def key(self, vectors: Tensor) -> Tensor:
        """Queries or codes (M, d) as the vectors whose distance decides."""
        return vectors

    def lift(self, codes: Tensor) -> Tensor:
        """Chosen codes (M, d) as latent vectors (M, D)."""
        return codes

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        """Make ``codes()`` equal to the given (V, d)."""
        self.weight.copy_(codes)

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Set the codes from the first queries (M, d) of training."""
        self.write(kmeans(x, len(self.weight)))

    @torch.no_grad()
    def spread(self, x: Tensor) -> None:
        """Give the codes the spread of the first queries (M, d) of training, where ``spreads`` says so."""


class Free(Table):
    """Every code vector stands for itself (van den Oord et al., arXiv 1711.00937)."""


class Factorized(Table):
    """Look-up in few dimensions, l2-normalised (ViT-VQGAN, arXiv 2110.04627; DAC, arXiv 2306.06546).

    Args:
        dim: latent width D.
        size: number of codes V.
        trainable: whether the optimiser moves the codes.
        width: width d of the search space.
        normalize: ``both`` puts queries and codes on the unit sphere (ViT-VQGAN); ``lookup`` does so only to find the
            nearest one (DAC); ``none`` compares the plain vectors.
    """

    projects = True

    def __init__(
        self, dim: int, size: int, *, trainable: bool, width: int = 8, normalize: str = "both"
    ) -> None:
        if normalize not in ("both", "lookup", "none"):
            raise ValueError(f"normalize is both, lookup or none, not {normalize!r}")
        super().__init__(width, size, trainable=trainable)
        nn.init.normal_(self.weight)
        self.normalize = normalize
        self.down = Linear(dim, width)
        self.up = Linear(width, dim)

    def codes(self) -> Tensor:
        # a copy, since the weight may be written before the backward pass needs it
        return F.normalize(self.weight.clone(), dim=1) if self.normalize == "both" else self.weight

    def query(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return F.normalize(x, dim=1) if self.normalize == "both" else x

    def key(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.normalize == "lookup" else vectors

    def lift(self, codes: Tensor) -> Tensor:
        return self.up(codes)
