"""What inference needs of a codebook: its code vectors, the search for the nearest one, and the way back."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops
from codec.quantizers.codebook.assign import nearest
from codec.quantizers.codebook.table import Table


class Lookup(nn.Module):
    """A table of V code vectors for vectors of width D.

    Args:
        dim: width D of the vectors.
        size: number of codes V.
        table: where the code vectors come from.
    """

    def __init__(self, dim: int, size: int, table: Table) -> None:
        super().__init__()
        self.dim, self.size, self.table = dim, size, table
        self._cache: tuple[Any, Tensor, Tensor] | None = None

    @property
    def operable(self) -> bool:
        """Whether the residual search operator can use this book."""
        return not self.table.projects and self.size <= ops.MAX_CODES

    @torch.no_grad()
    def tables(self) -> tuple[Tensor, Tensor]:
        """Code vectors (V, d) and their search keys (V, d); kept in eval mode while nothing changes."""
        tensors = [*self.table.parameters(), *self.table.buffers()]
        if self.training or any(t.is_inference() for t in tensors):
            codes = self.table.codes().detach()
            return codes, self.table.key(codes)
        state = [(t.data_ptr(), t._version) for t in tensors]
        if self._cache is None or self._cache[0] != state:
            with torch.inference_mode(False):
                codes = self.table.codes().detach()
                self._cache = (state, codes, self.table.key(codes))
        return self._cache[1], self._cache[2]

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index (M,) of the nearest code of vectors (M, D), the same in any batch."""
        return nearest(self.table.key(self.table.query(x)), self.tables()[1])

    @torch.no_grad()
    def candidates(self, x: Tensor, number: int) -> Tensor:
        """Indices (M, number) of the nearest codes of vectors (M, D), the nearest first."""
        query, keys = self.table.key(self.table.query(x)), self.tables()[1]
        return torch.cdist(query, keys).topk(number, dim=1, largest=False).indices

    @torch.no_grad()
    def embed(self, index: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M,)."""
        return self.table.lift(F.embedding(index, self.tables()[0]))
