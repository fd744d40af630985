"""Residual and grouped FSQ."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from codec.nn.linear import Linear
from codec.quantizers.additive import Additive, split
from codec.quantizers.base import Pass, Quantizer
from codec.quantizers.codebook.book import Book


class ResidualFSQ(Quantizer):
    """FSQ again and again on what is left over, in groups of channels, the stream stage-major.

    With fixed scales (1 / (L - 1) per stage, input bounded by tanh) late stages get residuals that are too small or too
    large for their levels. The robust form (arXiv 2508.15860) learns each stage's scale, started from the data.

    Args:
        dim: latent width D.
        levels: levels of the channels of one group; linear layers lead in and out if groups * channels is not D.
        stages: residual stages R; K = groups * R.
        groups: groups of channels G.
        robust: learned scales instead of fixed ones.
        prefixes: legal values of ``num_codebooks`` in calls; None means whole stages: G, 2G, ..., K.
        dropout: share of samples of a training batch that use one of ``prefixes`` instead of all books.
    """

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        stages: int = 8,
        *,
        groups: int = 1,
        robust: bool = True,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = len(levels) * groups
        learn = "gradient" if robust else "frozen"
        books = []
        for stage in range(stages):
            scale = [1.0 / (level - 1) ** stage for level in levels]
            table = {"name": "grid", "levels": list(levels), "scale": scale}
            books += [Book(len(levels), prod(levels), table=table, learn=learn) for _ in range(groups)]
        self.inner = Additive(
            width,
            books,
            split(width, groups) * stages,
            prefixes=prefixes or range(groups, groups * stages + 1, groups),
            dropout=dropout,
        )
        self.dim, self.robust = dim, robust
        self.codebook_sizes, self.prefixes = self.inner.codebook_sizes, self.inner.prefixes
        self.down: nn.Module = Linear(dim, width) if width != dim else nn.Identity()
        self.up: nn.Module = Linear(width, dim) if width != dim else nn.Identity()

    def _lead_in(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x if self.robust else torch.tanh(x)

    def _forward(self, x: Tensor, num: int | None) -> Pass:
        y = self._lead_in(x.reshape(-1, self.dim)).view(*x.shape[:2], self.inner.dim)
        quantized, first, *rest = self.inner._forward(y, num)
        whole, part = (self.up(found.flatten(0, 1)).view(x.shape) for found in (quantized, first))
        return whole, part, *rest

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        return self.inner._search(self._lead_in(x), num, beam, refine)

    def _embed(self, codes: Tensor) -> Tensor:
        return self.up(self.inner._embed(codes))
