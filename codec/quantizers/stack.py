"""The codebooks of an additive quantizer as one tensor, for the search operator."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from codec import ops

Spans = Sequence[tuple[int, int]]


class Stack:
    """Code vectors of K stages, each of which adds to its span of channels.

    Stages whose spans take turns, all equally wide, are searched as groups side by side; others as one group of full
    width whose codebooks are zero outside their span.

    Args:
        tables: code vectors (V, d) of each stage.
        spans: (first, last + 1) channel of each stage.
        dim: latent width D.
    """

    def __init__(self, tables: Sequence[Tensor], spans: Spans, dim: int) -> None:
        self.tables, self.spans, self.dim = list(tables), tuple(spans), dim
        groups, width = len(set(self.spans)), self.spans[0][1] - self.spans[0][0]
        turns = tuple((g * width, (g + 1) * width) for g in range(groups)) * (len(self.spans) // groups)
        self.grouped = self.spans == turns
        spread = ((0, width),) * len(self.spans) if self.grouped else self.spans
        stacked = stack_tables(self.tables, spread, width if self.grouped else dim)
        # (G, S, V, d): stage s of group g is codebook s * G + g
        self.codebooks = (
            stacked.unflatten(0, (-1, groups if self.grouped else 1)).transpose(0, 1).contiguous()
        )

    def encode(self, x: Tensor, beam: int) -> Tensor:
        """Codes (M, K) of vectors (M, D)."""
        return ops.rvq_encode(self._parts(x), self.codebooks, beam=beam).permute(1, 2, 0).flatten(1)

    def train(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Greedy codes (M, K) of vectors (M, D); of each stage counts (V,) and sums (V, d) of what chose the codes."""
        found = ops.rvq_encode_train(self._parts(x), self.codebooks)
        counts, sums = (part.transpose(0, 1).flatten(0, 1) for part in (found.counts, found.sums))
        sizes = [len(table) for table in self.tables]
        return (
            found.codes.permute(1, 2, 0).flatten(1),
            [row[:size] for row, size in zip(counts, sizes, strict=True)],
            [
                rows[:size] if self.grouped else rows[:size, low:high]
                for rows, size, (low, high) in zip(sums, sizes, self.spans, strict=True)
            ],
        )

    def embed(self, codes: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M, K)."""
        groups, stages, size, width = self.codebooks.shape
        # one bag for each vector and group, its codebooks added in their order
        first = torch.arange(0, groups * stages * size, size, device=codes.device).view(groups, stages)
        bags = codes.unflatten(1, (stages, groups)).transpose(1, 2) + first
        vectors = F.embedding_bag(bags.flatten(0, 1), self.codebooks.flatten(0, 2), mode="sum")
        vectors = vectors.view(len(codes), groups * width)
        return F.pad(vectors, (0, self.dim - groups * width)) if groups * width < self.dim else vectors

    def _parts(self, x: Tensor) -> Tensor:
        """(M, D) as (G, M, d)."""
        groups, width = self.codebooks.shape[0], self.codebooks.shape[3]
        return x[:, : groups * width].unflatten(1, (groups, width)).transpose(0, 1).contiguous()


def stack_tables(tables: Sequence[Tensor], spans: Spans, dim: int) -> Tensor:
    """Tables (V, d) as one (K, V, D): zeros outside their span, rows of infinity below a shorter one."""
    size = max(len(table) for table in tables)
    padded = []
    for table, (low, high) in zip(tables, spans, strict=True):
        wide = F.pad(table, (low, dim - high))
        padded.append(F.pad(wide, (0, 0, 0, size - len(table)), value=torch.inf))
    return torch.stack(padded)
