"""Split residual vector quantization: semantic books and acoustic books."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.linear import Linear
from codec.quantizers.base import Pass, Quantizer
from codec.quantizers.codebook import Choices
from codec.quantizers.rvq import RVQ


class SplitRVQ(Quantizer):
    """Semantic books first, acoustic books beside them, each behind linear layers of its own (Mimi, arXiv 2410.00037).

    Quantizer dropout leaves the semantic books alone. A teacher of phonetics sees them alone.

    Args:
        dim: latent width D.
        num_codebooks: number of books K of both kinds.
        codebook_size: codes per book V.
        semantic_books: how many of them are semantic.
        width: width inside; None means D.
        parallel: both see the latents (Mimi); else the acoustic books see what the semantic ones left over.
        prefixes: legal values of ``num_codebooks`` in calls; None means semantic_books..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` instead of all books.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (see ``codebook.book.Book``).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int = 2048,
        *,
        semantic_books: int = 1,
        width: int | None = None,
        parallel: bool = True,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        super().__init__()
        first, rest = semantic_books, num_codebooks - semantic_books
        if first < 1 or rest < 1:
            raise ConfigError(f"{num_codebooks} books cannot be {first} semantic and {rest} acoustic ones")
        prefixes = tuple(prefixes or range(first, num_codebooks + 1))
        if prefixes[0] < first:
            raise ConfigError(f"the shortest prefix, {prefixes[0]}, must hold the {first} semantic books")
        width = width or dim
        self.dim, self.first, self.parallel = dim, first, parallel
        self.down = nn.ModuleList(Linear(dim, width, bias=False) for _ in range(2))
        self.up = nn.ModuleList(Linear(width, dim, bias=False) for _ in range(2))
        self.semantic_rvq = RVQ(width, first, codebook_size, prefixes=(first,), **choices)
        acoustic = [p - first for p in prefixes if p > first]
        self.acoustic_rvq = RVQ(width, rest, codebook_size, prefixes=acoustic, dropout=dropout, **choices)
        self.prefixes = prefixes
        self.codebook_sizes = (codebook_size,) * num_codebooks

    def _forward(self, x: Tensor, num: int | None) -> Pass:
        meaning, _, codes, losses, metrics = self.semantic_rvq._forward(self._each(self.down[0], x), None)
        quantized = self._each(self.up[0], meaning)
        rest = None if num is None else num - self.first
        if rest == 0:
            return quantized, quantized, codes, losses, metrics
        left = x if self.parallel else x - quantized.detach()
        sound, _, more, losses2, metrics2 = self.acoustic_rvq._forward(self._each(self.down[1], left), rest)
        share = codes.shape[2] / (codes.shape[2] + more.shape[2])
        merged = {k: share * losses[k] + (1 - share) * losses2[k] for k in losses}
        for name, value in metrics2.items():
            kind, _, book = name.partition("/")
            if book:
                metrics[f"{kind}/{int(book) + self.first}"] = value
            elif kind != "nonfinite":
                metrics[kind] = share * metrics[kind] + (1 - share) * value
        whole = quantized + self._each(self.up[1], sound)
        return whole, quantized, torch.cat([codes, more], 2), merged, metrics

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        codes = self.semantic_rvq._search(self.down[0](x), self.first, beam, refine)
        if num == self.first:
            return codes
        left = x if self.parallel else x - self.up[0](self.semantic_rvq._embed(codes))
        return torch.cat(
            [codes, self.acoustic_rvq._search(self.down[1](left), num - self.first, beam, refine)], 1
        )

    def _embed(self, codes: Tensor) -> Tensor:
        total = self.up[0](self.semantic_rvq._embed(codes[:, : self.first]))
        if codes.shape[1] > self.first:
            total = total + self.up[1](self.acoustic_rvq._embed(codes[:, self.first :]))
        return total

    @staticmethod
    def _each(layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(x.reshape(-1, x.shape[2]))
        return y.view(x.shape[0], x.shape[1], y.shape[1])
