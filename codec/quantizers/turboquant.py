"""TurboQuant: a random rotation and fixed scalar levels, nothing trained. The baseline of every learned quantizer."""

from itertools import pairwise
from math import erf, exp, pi, sqrt
from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.nn.linear import linear
from codec.quantizers.base import Common, Losses, Quantizer, QuantizerOutput
from codec.quantizers.codebook.gradient import straight_through
from codec.quantizers.scalar import keep
from codec.quantizers.usage import code_metrics

_GAINS = 1024  # levels of the length, over 2^-16 .. 2^16
_OCTAVES = 32
_CODEBOOK_BITS = 16  # channels share codebooks of up to this size


class TurboQuant(Quantizer):
    """Length times direction; the direction rotated at random, so that all channels are alike (arXiv 2504.19874).

    Each rotated channel of a unit vector is close to N(0, 1 / D), whose best 2^bits levels are known. The first
    codebook holds the length in 1,024 logarithmic steps, the others the channels.

    Args:
        dim: latent width D.
        bits: bits per channel, 1 to 8.
        seed: of the rotation, which is stored with the weights.
        common: see `Common`.

    Raises:
        ConfigError: settings out of range.
    """

    rotation: Tensor
    levels: Tensor
    edges: Tensor

    def __init__(
        self,
        dim: int,
        bits: int = 2,
        *,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        if not 1 <= bits <= 8:
            raise ConfigError(f"TurboQuant takes 1 to 8 bits per channel, not {bits}")
        share = max(1, _CODEBOOK_BITS // bits)
        spans = [(low, min(low + share, dim)) for low in range(0, dim, share)]
        sizes = (_GAINS, *(1 << bits * (high - low) for low, high in spans))
        super().__init__(dim, sizes, shortest=2, **common)
        self.bits, self.spans = bits, spans
        gaussian = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        self.register_buffer("rotation", (q * r.diagonal().sign()).float())
        levels = torch.tensor(lloyd_max(1 << bits))
        self.register_buffer("levels", (levels / sqrt(dim)).float(), persistent=False)
        self.register_buffer("edges", ((levels[1:] + levels[:-1]) / 2 / sqrt(dim)).float(), persistent=False)

    def pack(self, digits: Tensor, count: int) -> Tensor:
        """The first ``count`` codebooks' codes (M, count) of levels (M, D)."""
        codes = []
        for low, high in self.spans[:count]:
            shifts = self.bits * torch.arange(high - low, device=digits.device)
            codes.append((digits[:, low:high] << shifts).sum(1))
        return torch.stack(codes, 1)

    def unpack(self, codes: Tensor) -> Tensor:
        """Levels (M, d) of the first K' codebooks' codes (M, K')."""
        digits = []
        for code, (low, high) in zip(codes.unbind(1), self.spans, strict=False):
            shifts = self.bits * torch.arange(high - low, device=codes.device)
            digits.append((code[:, None] >> shifts) & ((1 << self.bits) - 1))
        return torch.cat(digits, 1)

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        length = x.norm(dim=1, keepdim=True).clamp_min(2.0**-20)
        step = ((length.log2() + _OCTAVES / 2) * (_GAINS / _OCTAVES)).round().clamp(0, _GAINS - 1).long()
        digits = torch.bucketize(linear(x / length, self.rotation), self.edges)
        return torch.cat([step, self.pack(digits, num - 1)], 1)

    def _embed(self, codes: Tensor) -> Tensor:
        length = torch.exp2(codes[:, :1] * (_OCTAVES / _GAINS) - _OCTAVES / 2)
        unit = self.levels[self.unpack(codes[:, 1:])]
        return length * linear(F.pad(unit, (0, self.dim - unit.shape[1])), self.rotation, arrange=torch.t)

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        batch, frames, _ = x.shape
        flat = x.detach().nan_to_num(0.0, 0.0, 0.0).reshape(-1, self.dim)
        numbers, stages = self._draw(batch, num)
        codes = self._search(flat, stages, 1, 0)
        values = self._embed(codes).view(x.shape)
        codes = codes.view(batch, frames, stages)
        for number in sorted(set(numbers) - {stages}):
            rows = [i for i, n in enumerate(numbers) if n == number]
            part = codes[rows][..., :number].reshape(-1, number)
            values[rows] = self._embed(part).view(len(rows), frames, self.dim)
        _, sent = keep(numbers, [(0, 1)] * stages, x.device)
        codes = codes.masked_fill(~sent, -1)
        metrics: Losses = {"nonfinite": (~torch.isfinite(x.detach())).sum()} if self.training else {}
        metrics |= code_metrics(codes, self.codebook_sizes)
        quantized = straight_through(x, values)
        return QuantizerOutput(quantized, codes, {}, metrics, quantized)


def lloyd_max(count: int, rounds: int = 2000) -> list[float]:
    """The ``count`` levels with the least squared error for a standard normal variable."""
    levels = [-2.5 + 5.0 * (i + 0.5) / count for i in range(count)]
    for _ in range(rounds):
        edges = [-40.0, *((a + b) / 2 for a, b in pairwise(levels)), 40.0]
        density = [exp(-e * e / 2) / sqrt(2 * pi) for e in edges]
        below = [0.5 * (1 + erf(e / sqrt(2))) for e in edges]
        moved = [(density[i] - density[i + 1]) / max(below[i + 1] - below[i], 1e-300) for i in range(count)]
        change = max(abs(a - b) for a, b in zip(levels, moved, strict=True))
        levels = moved
        if change < 1e-9:
            break
    return levels
