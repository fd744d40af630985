"""Masked-channel residual vector quantization (Language-Codec)."""

from collections.abc import Sequence
from typing import Unpack

from codec.errors import ConfigError
from codec.quantizers.additive import Additive, split
from codec.quantizers.codebook import Choices
from codec.quantizers.codebook.book import Book


class MCRVQ(Additive):
    """The first books each see a slice of the channels, the others what is left of all (arXiv 2402.12208).

    The masks are the books' spans, in training and in encoding alike, so a code vector cannot leave its slice. The
    masked books are one unit: the shortest prefix holds them all.

    Args:
        dim: latent width D.
        num_codebooks: number of books K.
        codebook_size: codes per book V.
        masked: number of books that see a slice.
        prefixes: legal values of ``num_codebooks`` in calls; None means masked..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` instead of all books.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (see ``codebook.book.Book``).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int = 1024,
        *,
        masked: int = 3,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        if not 1 <= masked <= num_codebooks:
            raise ConfigError(f"masked books must be 1 to {num_codebooks}, not {masked}")
        spans = split(dim, masked) + [(0, dim)] * (num_codebooks - masked)
        super().__init__(
            dim,
            [Book(high - low, codebook_size, **choices) for low, high in spans],
            spans,
            prefixes=prefixes or range(masked, num_codebooks + 1),
            dropout=dropout,
        )
