"""Product quantization: channels in slices, a book for each."""

from collections.abc import Sequence
from typing import Unpack

from codec.quantizers.additive import Additive, split
from codec.quantizers.codebook import Choices
from codec.quantizers.codebook.book import Book


class ProductVQ(Additive):
    """Each book quantizes its own slice of the channels (multi-codebook quantization of UniTok, arXiv 2502.20321).

    UniTok itself is ``table={name: factorized, width: D / K}`` with ``learn=gradient``.

    Args:
        dim: latent width D.
        num_codebooks: number of slices and books K.
        codebook_size: codes per book V.
        prefixes: legal values of ``num_codebooks`` in calls, the other slices being zero; None means 1..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` instead of all books.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (see ``codebook.book.Book``).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        spans = split(dim, num_codebooks)
        books = [Book(high - low, codebook_size, **choices) for low, high in spans]
        super().__init__(dim, books, spans, prefixes=prefixes, dropout=dropout)
