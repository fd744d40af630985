"""Residual vector quantization."""

from collections.abc import Sequence
from typing import Unpack

from codec.quantizers.additive import Additive
from codec.quantizers.codebook import Choices
from codec.quantizers.codebook.book import Book


class RVQ(Additive):
    """Each book quantizes what the books before it left over (SoundStream, arXiv 2107.03312).

    Args:
        dim: latent width D.
        num_codebooks: number of books K.
        codebook_size: codes per book V.
        prefixes: legal values of ``num_codebooks`` in calls; None means 1..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all books.
        shared: all stages use one book (RQ-VAE, arXiv 2203.01941).
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
        shared: bool = False,
        **choices: Unpack[Choices],
    ) -> None:
        books = [Book(dim, codebook_size, **choices) for _ in range(1 if shared else num_codebooks)]
        stages = [0] * num_codebooks if shared else list(range(num_codebooks))
        super().__init__(
            dim, books, [(0, dim)] * num_codebooks, stages=stages, prefixes=prefixes, dropout=dropout
        )
