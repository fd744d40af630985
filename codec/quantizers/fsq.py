"""Finite scalar quantization: FSQ, iFSQ, residual and grouped FSQ."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codec.nn.linear import Linear
from codec.quantizers.additive import Additive, split
from codec.quantizers.base import Common, Losses, Quantizer, QuantizerOutput
from codec.quantizers.codebook import Codebook
from codec.quantizers.scalar import Scalar

FLAT = 2.0  # beyond it the slope of tanh is below a fourteenth; 12 levels and more reach further


class FSQ(Scalar):
    """A few fixed levels per channel, no codebook (Mentzer et al., arXiv 2309.15505).

    Loss (the paper has none): ``range``, the mean square of how far channels lie beyond the bend of the bound. Where
    tanh is flat nothing else tells an encoder that its latents are too large: in NeuCodec's narrow form they grew to
    a spread of 100, so that hardly any level but the outermost was used.

    Levels of the paper for 2^8 to 2^16 codes: [8, 6, 5], [8, 5, 5, 5], [7, 5, 5, 5, 5], [8, 8, 8, 6, 5],
    [8, 8, 8, 5, 5, 5].

    Args:
        dim: latent width D.
        levels: levels of the channels of one codebook.
        num_codebooks: number of codebooks K, each with its own channels (grouped FSQ).
        common: see `Common`.
    """

    slope = 1.0
    loss_names = ("range",)

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_codebooks: int = 1,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(dim, list(levels) * num_codebooks, num_codebooks, **common)
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        self.register_buffer("reach", half, persistent=False)
        self.register_buffer("offset", offset, persistent=False)
        edge = torch.atanh((self.levels - 2) / 2 / half)  # of the outermost levels
        self.register_buffer("bend", (edge + 0.5).clamp_min(FLAT), persistent=False)
        self.register_buffer("shift", torch.atanh(offset / half) / self.slope, persistent=False)

    reach: Tensor
    offset: Tensor
    shift: Tensor
    bend: Tensor

    def _bound(self, y: Tensor) -> Tensor:
        return torch.tanh(self.slope * (y + self.shift)) * self.reach - self.offset

    def _terms(self, y: Tensor, bounded: Tensor, values: Tensor) -> Losses:
        excess = F.relu((self.slope * (y + self.shift)).abs() - self.bend)
        return {"range": excess.square().mean()}

    def _digits(self, y: Tensor) -> Tensor:
        return y.round().long() + self.levels // 2

    def _values(self, digits: Tensor) -> Tensor:
        middle = self.levels // 2
        return (digits - middle) / middle

    def _estimate(self, y: Tensor, values: Tensor) -> Tensor:
        return values + (y - y.detach()) / (self.levels // 2)


class IFSQ(FSQ):
    """FSQ with 2 sigmoid(1.6 x) - 1 in place of tanh, so that Gaussian input uses all levels alike (iFSQ).

    That is tanh(0.8 x). The shift that centres an even number of levels is adapted to it.
    """

    slope = 0.8


class ResidualFSQ(Quantizer):
    """FSQ again and again on what is left over, in groups of channels, the stream stage-major.

    With fixed scales (1 / (L - 1) per stage, input bounded by tanh) late stages get residuals that are too small or too
    large for their levels. The robust form (arXiv 2508.15860) learns each stage's scale, started from the data.

    Args:
        dim: latent width D.
        levels: levels of the channels of one group; linear layers project in and out if groups * channels is not D.
        stages: residual stages R; K = groups * R.
        groups: groups of channels G.
        robust: learned scales instead of fixed ones.
        common: see `Common`.
    """

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        stages: int = 8,
        *,
        groups: int = 1,
        robust: bool = True,
        **common: Unpack[Common],
    ) -> None:
        width = len(levels) * groups
        codebooks = []
        for stage in range(stages):
            scale = [1.0 / (level - 1) ** stage for level in levels]
            table = {"name": "grid", "levels": list(levels), "scale": scale}
            update = "gradient" if robust else "frozen"
            codebooks += [
                Codebook(len(levels), prod(levels), table=table, update=update) for _ in range(groups)
            ]
        spans = split(width, groups) * stages
        inner = Additive(width, spans, codebooks, shortest=groups, step=groups, **common)
        super().__init__(dim, inner.codebook_sizes, prefixes=inner.prefixes)
        self.inner, self.robust = inner, robust
        self.in_proj: nn.Module = Linear(dim, width) if width != dim else nn.Identity()
        self.out_proj: nn.Module = Linear(width, dim) if width != dim else nn.Identity()

    def _project_in(self, x: Tensor) -> Tensor:
        x = self.in_proj(x)
        return x if self.robust else torch.tanh(x)

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        y = self._project_in(x.reshape(-1, self.dim)).view(*x.shape[:2], self.inner.dim)
        out = self.inner._forward(y, num)
        whole, part = (self.out_proj(z.flatten(0, 1)).view(x.shape) for z in (out.quantized, out.first_stage))
        return replace(out, quantized=whole, first_stage=part)

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        return self.inner._search(self._project_in(x), num, beam, refine)

    def _embed(self, codes: Tensor) -> Tensor:
        return self.out_proj(self.inner._embed(codes))
