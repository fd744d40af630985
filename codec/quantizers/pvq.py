"""Pyramid vector quantization: a gain, and a shape out of all integer vectors with a given sum of magnitudes."""

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.quantizers.base import Common, Losses, Quantizer, QuantizerOutput
from codec.quantizers.codebook import Codebook
from codec.quantizers.codebook.distributed import all_reduce
from codec.quantizers.codebook.gradient import straight_through
from codec.quantizers.scalar import keep
from codec.quantizers.usage import code_metrics


class Pyramid:
    """The integer vectors y of width d with |y_0| + .. + |y_d-1| = k, numbered without gaps (Fischer, 1986).

    They are counted by N(d, k) = N(d - 1, k) + N(d, k - 1) + N(d - 1, k - 1). Vectors are ordered by their first
    element, in the order 0, 1, -1, 2, -2, .., and so on inwards.

    Args:
        dim: width d.
        pulses: sum of magnitudes k.

    Raises:
        ConfigError: no such vectors, or more than 2^32.
    """

    def __init__(self, dim: int, pulses: int) -> None:
        if dim < 1 or pulses < 1:
            raise ConfigError(f"a pyramid needs at least 1 channel and 1 pulse, not {dim} and {pulses}")
        counts = [[1] + [0] * pulses]
        for d in range(1, dim + 1):
            row = [1]
            for k in range(1, pulses + 1):
                row.append(counts[d - 1][k] + row[k - 1] + counts[d - 1][k - 1])
            counts.append(row)
        if counts[dim][pulses] > 1 << 32:
            raise ConfigError(
                f"{pulses} pulses in {dim} channels make {counts[dim][pulses]} vectors, more than 2^32"
            )
        self.dim, self.pulses, self.size = dim, pulses, counts[dim][pulses]
        self.counts = torch.tensor(counts)
        # first[d, k, a]: number of the first vector of width d and sum k that begins with +a
        self.first = torch.full((dim + 1, pulses + 1, pulses + 1), torch.iinfo(torch.int64).max)
        for d in range(1, dim + 1):
            for k in range(pulses + 1):
                at = 0
                for a in range(k + 1):
                    self.first[d, k, a] = at
                    at += counts[d - 1][k - a] * (1 if a == 0 else 2)

    def rank(self, y: Tensor) -> Tensor:
        """Numbers (M,) of vectors (M, d) int64."""
        counts, first = self.counts.to(y.device), self.first.to(y.device)
        left = torch.full_like(y[:, 0], self.pulses)
        number = torch.zeros_like(left)
        for i in range(self.dim):
            d, a = self.dim - i, y[:, i].abs()
            number += first[d, left, a] + torch.where(y[:, i] < 0, counts[d - 1, left - a], 0)
            left = left - a
        return number

    def unrank(self, number: Tensor) -> Tensor:
        """Vectors (M, d) of numbers (M,) int64."""
        counts, first = self.counts.to(number.device), self.first.to(number.device)
        left = torch.full_like(number, self.pulses)
        values = []
        for i in range(self.dim):
            d = self.dim - i
            a = (first[d, left] <= number[:, None]).sum(1) - 1
            number = number - first[d, left, a]
            inner = counts[d - 1, left - a]
            negative = (a > 0) & (number >= inner)
            number = number - torch.where(negative, inner, 0)
            values.append(torch.where(negative, -a, a))
            left = left - a
        return torch.stack(values, 1)

    def project(self, x: Tensor) -> Tensor:
        """Vectors (M, d) int64 near the directions of x (M, d): scale, round down, add pulses where they help most."""
        size = x.abs()
        total = size.sum(1, keepdim=True)
        # a vector of zeros has no direction; all its pulses go to the first channel
        size = torch.where(
            total > 0, size, F.one_hot(torch.zeros_like(total[:, 0], dtype=torch.int64), self.dim)
        )
        size = size / size.sum(1, keepdim=True)
        y = (self.pulses * size).floor()
        for _ in range(self.dim):
            missing = self.pulses - y.sum(1, keepdim=True)
            match = ((size * y).sum(1, keepdim=True) + size).square()
            best = (match / (y.square().sum(1, keepdim=True) + 2 * y + 1)).argmax(1, keepdim=True)
            y = y.scatter_add(1, best, (missing > 0).to(y.dtype))
        return torch.where(x < 0, -y, y).long()


class PVQ(Quantizer):
    """Groups of channels, each a gain times a direction of the pyramid (PVQ; for networks, arXiv 2410.16926).

    The shape needs no codebook: codes are exact numbers of integer vectors, as in the CELT layer of Opus. The gains are
    a small learned table that all groups share. Losses: ``commit``.

    Args:
        dim: latent width D.
        num_codebooks: number of groups K; D must be a multiple.
        pulses: sum of magnitudes k; a code has log2 N(D / K, k) bits for the shape.
        gains: number of gains, the other factor of V.
        common: see `Common`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        pulses: int = 4,
        gains: int = 8,
        **common: Unpack[Common],
    ) -> None:
        if num_codebooks < 1 or dim % num_codebooks:
            raise ConfigError(f"{dim} channels cannot be cut into {num_codebooks} equal groups")
        pyramid = Pyramid(dim // num_codebooks, pulses)
        if pyramid.size * gains > 1 << 32:
            raise ConfigError(f"{pyramid.size} shapes times {gains} gains are more than 2^32 codes")
        super().__init__(dim, [pyramid.size * gains] * num_codebooks, **common)
        self.groups, self.gains, self.width, self.pyramid = num_codebooks, gains, pyramid.dim, pyramid
        self.gain = Codebook(1, gains, replace_dead="none")

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (M, K) and gain indices (M * K,) of vectors (M, D)."""
        parts = x.reshape(-1, self.width)
        y = self.pyramid.project(parts)
        index = self.gain.search(self._gain(parts, y))
        return (self.pyramid.rank(y) * self.gains + index).view(len(x), self.groups), index

    def _gain(self, parts: Tensor, y: Tensor) -> Tensor:
        """The best gain (M, 1) of vectors (M, d) given their direction: the projection onto it."""
        return (parts * F.normalize(y.to(parts.dtype), dim=1)).sum(1, keepdim=True)

    def _embed(self, codes: Tensor) -> Tensor:
        flat = codes.reshape(-1)
        y = self.pyramid.unrank(torch.div(flat, self.gains, rounding_mode="floor")).float()
        parts = self.gain.embed(flat % self.gains) * F.normalize(y, dim=1)
        found = parts.view(len(codes), codes.shape[1] * self.width)
        return F.pad(found, (0, self.dim - found.shape[1]))

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        return self._codes(x)[0][:, :num]

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        batch, frames, _ = x.shape
        bad = (~torch.isfinite(x.detach())).sum()
        clean = x.detach().nan_to_num(0.0, 0.0, 0.0).reshape(-1, self.dim)
        initialise = False
        if self.training:
            all_reduce(bad)
            parts = clean.view(-1, self.width)
            gains = self._gain(parts, self.pyramid.project(parts))
            initialise = not self.gain.is_initialised
            if initialise and not bad:
                self.gain.initialise(gains)
        found, index = self._codes(clean)
        embedded = self._embed(found)
        if self.training:
            projected, counts, sums = self.gain.statistics(gains, index)
            all_reduce(counts, sums)
            self.gain.update(projected, counts, sums, (1 - self.gain.decay) * (bad == 0).float())
        numbers, stages = self._draw(batch, num, whole=initialise)
        spans = [(k * self.width, (k + 1) * self.width) for k in range(self.groups)]
        kept, sent = keep(numbers, spans, x.device)
        values = embedded.view(batch, frames, self.dim) * kept
        codes = found.view(batch, frames, self.groups)[..., :stages].masked_fill(~sent[..., :stages], -1)
        metrics: Losses = {"nonfinite": bad} if self.training else {}
        metrics |= code_metrics(codes, self.codebook_sizes)
        error = ((x - values) * kept).square().sum() / max(int(kept.sum()) * frames, 1)
        quantized = straight_through(x, values)
        return QuantizerOutput(quantized, codes, {"commit": error}, metrics, quantized)
