"""Finite scalar quantization: FSQ and iFSQ."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.quantizers.base import Losses
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
        levels: levels of the channels of one book.
        num_codebooks: number of books K, each with its own channels (grouped FSQ).
        prefixes: legal values of ``num_codebooks`` in calls; None means 1..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` instead of all books.
    """

    slope = 1.0
    loss_names = ("range",)

    def __init__(
        self,
        dim: int,
        levels: Sequence[int] = (8, 5, 5, 5),
        num_codebooks: int = 1,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(dim, list(levels) * num_codebooks, num_codebooks, prefixes=prefixes, dropout=dropout)
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

    def _bridge(self, y: Tensor, values: Tensor) -> Tensor:
        return values + (y - y.detach()) / (self.levels // 2)


class IFSQ(FSQ):
    """FSQ with 2 sigmoid(1.6 x) - 1 in place of tanh, so that Gaussian input uses all levels alike (iFSQ).

    That is tanh(0.8 x). The shift that centres an even number of levels is adapted to it.
    """

    slope = 0.8
