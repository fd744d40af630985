"""Collapsed codebooks: which, and the likely cause."""

from __future__ import annotations

from collections.abc import Sequence

from codec.metrics.tokens import CodebookStatistics

_GRACE = 200  # batches in which codebooks and networks have not trained enough to be called collapsed
_REPEAT = 10  # rows after which a codebook that stays collapsed is named again


class CollapseWatch:
    """Finds codebooks that use few of their codes.

    Args:
        limit: a codebook that uses a smaller share of its codes has collapsed.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._rows: dict[int, int] = {}  # codebook to rows since it collapsed

    def warnings(self, batches: int, usage: Sequence[CodebookStatistics]) -> list[str]:
        """A sentence for each cause of a collapse, after `batches` batches, of the `usage` since the last row."""
        causes: dict[str, list[int]] = {}
        for index, one in enumerate(usage):
            if batches < _GRACE or not one.tokens or one.reach >= self.limit:
                self._rows.pop(index, None)
                continue
            rows = self._rows.get(index, 0)
            self._rows[index] = rows + 1
            if rows % _REPEAT == 0:
                causes.setdefault(self._cause(index, usage), []).append(index)
        return [self._sentence(found, usage, cause) for cause, found in causes.items()]

    def _sentence(self, found: list[int], usage: Sequence[CodebookStatistics], cause: str) -> str:
        detail = ", ".join(
            f"{i} ({usage[i].used} of {usage[i].size} codes in {usage[i].tokens} tokens, "
            f"perplexity {usage[i].perplexity:.1f})"
            for i in found
        )
        return f"collapsed codebook{'s' * (len(found) > 1)} {detail}: {cause}"

    def _cause(self, index: int, usage: Sequence[CodebookStatistics]) -> str:
        """The likely cause, from what the other codebooks do."""
        if index and usage[0].reach >= self.limit:
            return "likely the codebooks before it leave too little to quantize, or quantizer dropout seldom trains it"
        if usage[index].perplexity < 2:
            return (
                "likely the encoder's output is nearly constant: the learning rate is too high or no gradient "
                "reaches it"
            )
        return "likely its codes lie far from the latents: check its init and that dead codes are replaced"
