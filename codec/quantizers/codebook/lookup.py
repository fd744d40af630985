"""What inference needs of a codebook: its code vectors, the search for the nearest one, and the way back."""

from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor

from codec import ops
from codec.nn.version import Changing, version
from codec.quantizers.codebook.assign import nearest, scores
from codec.quantizers.codebook.table import Table


class Lookup(Changing):
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
        self._tensors: list[Tensor] | None = None  # what the table is made of

    @property
    def operable(self) -> bool:
        """Whether the residual search operator can use this book."""
        return not self.table.projects and self.size <= ops.MAX_CODES

    def tables(self) -> tuple[Tensor, Tensor]:
        """Code vectors (V, d) and their search keys (V, d), detached; kept in eval mode while nothing changes."""
        if self._tensors is None:
            self._tensors = [*self.table.parameters(), *self.table.buffers()]
        keep = not self.training and not any(t.is_inference() for t in self._tensors)
        state = [version(t) for t in self._tensors] if keep else None
        if keep and self._cache is not None and self._cache[0] == state:
            return self._cache[1], self._cache[2]
        with torch.inference_mode(False) if keep else nullcontext(), torch.no_grad():
            codes = self.table.codes().detach()
            keys = self.table.key(codes)
        self._cache = (state, codes, keys) if keep else None
        return codes, keys

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index (M,) of the nearest code of vectors (M, D), the same in any batch."""
        return nearest(self.table.key(self.table.query(x)), self.tables()[1])

    @torch.no_grad()
    def candidates(self, x: Tensor, number: int) -> Tensor:
        """Indices (M, number) of the nearest codes of vectors (M, D), the nearest first."""
        query, keys = self.table.key(self.table.query(x)), self.tables()[1]
        # in double precision, so that what else is in the batch cannot change which are the nearest
        return scores(query.double(), keys.double()).topk(number, dim=1).indices

    def embed(self, index: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M,)."""
        return self.table.lift(self.tables()[0].index_select(0, index))

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; the table is looked at anew."""
        self._tensors = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._tensors = None  # moving and loading may put other tensors in place of the table's
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._tensors = None
        super()._load_from_state_dict(*args, **kwargs)
