"""Tables whose codes are a learned function of a base table: SimVQ, FVQ's bridge, VQGAN-LC, affine."""

import math

import torch
from torch import Tensor, nn

from codec.quantizers.codebook.table import Table


class SimVQ(Table):
    """A frozen random basis times one learned matrix, so that every step moves all codes (SimVQ, arXiv 2411.02038).

    The release draws the matrix at random, which suits latents that start as soft as its codes. Here the first queries
    give it the covariance that the best random codes have for them: those around the origin are one code to latents of
    variance 1, and those as wide as the latents are farther from most of them than the origin is.
    """

    writable = startable = False
    learned = spreads = True

    def __init__(self, dim: int, size: int, *, trainable: bool) -> None:
        super().__init__(dim, size, trainable=False)
        nn.init.normal_(self.weight, std=dim**-0.5)
        self.proj = nn.Linear(dim, dim, bias=False)

    def codes(self) -> Tensor:
        return self.proj(self.weight)

    @torch.no_grad()
    def spread(self, x: Tensor) -> None:
        if not x.any():
            return  # silence has no spread, and a matrix of zeros would never learn one
        values, vectors = torch.linalg.eigh(x.t().double() @ x.double() / len(x))
        wide = reproduced(values, math.log2(len(self.weight)))
        # the basis has the covariance I / d
        self.proj.weight.copy_((vectors * (len(values) * wide).sqrt()) @ vectors.t())


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


class Projected(Table):
    """Codes taken from data once and frozen, then projected (VQGAN-LC, arXiv 2406.11837).

    The projection begins as the identity, so that the first codes are the k-means centres of the first batch.

    Args:
        dim: width D.
        size: number of codes V.
        trainable: not used, the codes are frozen.
        hidden: width of a hidden layer added to the projection; 0 keeps it linear.
    """

    writable = False
    learned = True

    def __init__(self, dim: int, size: int, *, trainable: bool, hidden: int = 0) -> None:
        super().__init__(dim, size, trainable=False)
        self.proj = nn.Linear(dim, dim)
        nn.init.eye_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)
        self.mlp: nn.Sequential | None = None
        if hidden:
            last = nn.Linear(hidden, dim)
            nn.init.zeros_(last.weight)
            self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), last)

    def codes(self) -> Tensor:
        codes = self.proj(self.weight)
        return codes if self.mlp is None else codes + self.mlp(self.weight)


class Affine(Table):
    """Codes under a learned scale and shift per channel (Huh et al., arXiv 2305.08842).

    Args:
        dim: width D.
        size: number of codes V.
        trainable: whether the optimiser moves the codes below the scale and shift.
        lr_scale: how much faster scale and shift learn than the rest.
    """

    learned = True

    def __init__(self, dim: int, size: int, *, trainable: bool, lr_scale: float = 1.0) -> None:
        super().__init__(dim, size, trainable=trainable)
        self.lr_scale = lr_scale
        self.scale = nn.Parameter(torch.zeros(dim))
        self.shift = nn.Parameter(torch.zeros(dim))

    def codes(self) -> Tensor:
        # a copy, since revival may write the weight before the backward pass needs it
        return self.weight.clone() * (1 + self.lr_scale * self.scale) + self.lr_scale * self.shift

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        scale = 1 + self.lr_scale * self.scale
        safe = torch.where(scale.abs() < 1e-3, torch.ones_like(scale), scale)
        self.weight.copy_((codes - self.lr_scale * self.shift) / safe)


class FVQ(Table):
    """A small transformer sees the whole codebook and moves all codes together (FVQ, arXiv 2509.10140).

    The codebook is a square picture of codes; its patches are tokens. The last layer begins at zero, so that the
    first codes are the table itself. The paper needs a learning rate that warms up and anneals.

    Args:
        dim: width D.
        size: number of codes V, a square.
        trainable: whether the optimiser moves the table below the bridge.
        patch: side of a patch, in codes.
        width: width of the transformer.
        depth: number of its blocks.
    """

    writable = False
    learned = True

    def __init__(
        self, dim: int, size: int, *, trainable: bool, patch: int = 4, width: int = 128, depth: int = 2
    ) -> None:
        side = math.isqrt(size)
        if side * side != size or side % patch:
            raise ValueError(f"the number of codes must be the square of a multiple of {patch}, not {size}")
        super().__init__(dim, size, trainable=trainable)
        self.patch, self.grid = patch, side // patch
        # what tells the codes of a collapsed table apart is small, and all that the transformer has to go by
        self.norm = nn.LayerNorm(patch * patch * dim, eps=1e-10)
        self.inward = nn.Linear(patch * patch * dim, width)
        self.place = nn.Parameter(torch.randn(self.grid**2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.outward = nn.Linear(width, patch * patch * dim)
        nn.init.zeros_(self.outward.weight)
        nn.init.zeros_(self.outward.bias)

    def codes(self) -> Tensor:
        grid, patch, dim = self.grid, self.patch, self.weight.shape[1]
        tokens = self.weight.view(grid, patch, grid, patch, dim).transpose(1, 2).reshape(grid * grid, -1)
        tokens = self.outward(self.blocks((self.inward(self.norm(tokens)) + self.place)[None])[0])
        moved = tokens.view(grid, grid, patch, patch, dim).transpose(1, 2).reshape(self.weight.shape)
        return self.weight + moved
