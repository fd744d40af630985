"""Table: where code vectors come from (free, SimVQ, FVQ, projected, affine, factorized, grid)."""

import math
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.nn.linear import Linear
from codec.quantizers.codebook.init import best_scale, kmeans, reproduced, spaced


class Table(nn.Module):
    """Where the code vectors come from: what is made of ``weight`` (V, d).

    Codes are compared in a space of width d, onto which latents of width D may have to be projected.

    Attributes:
        writable: codes can be set to given vectors at any time, so that EMA and dead-code replacement can move them.
        loadable: codes can be set to given vectors before training.
        learned: codes also depend on parameters that only the optimiser can move.
        projects: codes are compared in a space of their own, so that each stage brings its own gradient.
        fits_data: codes that cannot be set still take the covariance of the first vectors of training.
    """

    writable = True
    loadable = True
    learned = False
    projects = False
    fits_data = False
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

    def project_in(self, x: Tensor) -> Tensor:
        """Latent vectors (M, D) projected to the width of the codes (M, d)."""
        return x

    def compared(self, vectors: Tensor) -> Tensor:
        """Projected vectors or codes (M, d) as they are compared: normalised, where the table says so."""
        return vectors

    def project_out(self, codes: Tensor) -> Tensor:
        """Code vectors (M, d) projected back to latent vectors (M, D)."""
        return codes

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        """Make ``codes()`` equal to the given (V, d)."""
        self.weight.copy_(codes)

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        """Set the codes from the first projected vectors (M, d) of training, by k-means."""
        self.write(kmeans(x, len(self.weight)))


class Free(Table):
    """Every code vector stands for itself (van den Oord et al., arXiv 1711.00937)."""


class Factorized(Table):
    """Look-up in few dimensions, l2-normalised (ViT-VQGAN, arXiv 2110.04627; DAC, arXiv 2306.06546).

    Args:
        dim: latent width D.
        size: number of codes V.
        trainable: whether the optimiser moves the codes.
        width: width d of the search space.
        normalize: ``both`` puts vectors and codes on the unit sphere (ViT-VQGAN); ``lookup`` does so only to find the
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
        self.in_proj = Linear(dim, width)
        self.out_proj = Linear(width, dim)

    def codes(self) -> Tensor:
        # a copy, since the weight may be written before the backward pass needs it
        return F.normalize(self.weight.clone(), dim=1) if self.normalize == "both" else self.weight

    def project_in(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        return F.normalize(x, dim=1) if self.normalize == "both" else x

    def compared(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=1) if self.normalize == "lookup" else vectors

    def project_out(self, codes: Tensor) -> Tensor:
        return self.out_proj(codes)


class SimVQ(Table):
    """A frozen random basis times one learned matrix, so that every step moves all codes (SimVQ, arXiv 2411.02038).

    The release draws the matrix at random, which suits latents that begin as soft as its codes. Here the first vectors
    give it the covariance that the best random codes have for them: those around the origin are one code to latents of
    variance 1, and those as wide as the latents are farther from most of them than the origin is.
    """

    writable = loadable = False
    learned = fits_data = True

    def __init__(self, dim: int, size: int, *, trainable: bool) -> None:
        super().__init__(dim, size, trainable=False)
        nn.init.normal_(self.weight, std=dim**-0.5)
        self.proj = nn.Linear(dim, dim, bias=False)

    def codes(self) -> Tensor:
        return self.proj(self.weight)

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        if not x.any():
            return  # silence has no covariance, and a matrix of zeros would never learn one
        values, vectors = torch.linalg.eigh(x.t().double() @ x.double() / len(x))
        wide = reproduced(values, math.log2(len(self.weight)))
        # the basis has the covariance I / d
        self.proj.weight.copy_((vectors * (len(values) * wide).sqrt()) @ vectors.t())


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
        # a copy, since dead-code replacement may write the weight before the backward pass needs it
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
        trainable: whether the optimiser moves the table below the transformer.
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
        self.in_proj = nn.Linear(patch * patch * dim, width)
        self.positions = nn.Parameter(torch.randn(self.grid**2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.out_proj = nn.Linear(width, patch * patch * dim)
        nn.init.zeros_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def codes(self) -> Tensor:
        grid, patch, dim = self.grid, self.patch, self.weight.shape[1]
        tokens = self.weight.view(grid, patch, grid, patch, dim).transpose(1, 2).reshape(grid * grid, -1)
        tokens = self.out_proj(self.blocks((self.in_proj(self.norm(tokens)) + self.positions)[None])[0])
        moved = tokens.view(grid, grid, patch, patch, dim).transpose(1, 2).reshape(self.weight.shape)
        return self.weight + moved


class Grid(Table):
    """All combinations of evenly spaced levels in each channel, as one codebook.

    Args:
        dim: width D.
        size: number of codes V, the product of the levels.
        trainable: whether the scale is learned (the robust scaling of arXiv 2508.15860) and starts from data.
        levels: number of levels per channel.
        scale: first distance from zero to the outermost level.
    """

    writable = False
    learned = True

    def __init__(
        self, dim: int, size: int, *, trainable: bool, levels: Sequence[int] = (), scale: Sequence[float] = ()
    ) -> None:
        if len(levels) != dim or prod(levels) != size:
            raise ValueError(f"levels {list(levels)} do not make {size} codes of width {dim}")
        super().__init__(1, 2, trainable=False)
        axes = [torch.linspace(-1, 1, level) for level in levels]
        # the first channel counts fastest, as in the codes of FSQ
        self.weight = torch.cartesian_prod(*axes[::-1]).view(size, dim).flip(1)
        self.levels = tuple(levels)
        self.scale = nn.Parameter(torch.tensor(scale or [1.0] * dim), requires_grad=trainable)

    def codes(self) -> Tensor:
        return self.weight * self.scale

    @torch.no_grad()
    def init_from(self, x: Tensor) -> None:
        levels = torch.tensor(self.levels, device=x.device)
        self.scale.copy_(best_scale(x, lambda part, scale: spaced(part, scale, levels)))
