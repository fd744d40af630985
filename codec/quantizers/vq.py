"""Vector quantization with one codebook."""

from typing import Unpack

from codec.quantizers.additive import Additive
from codec.quantizers.codebook import Choices
from codec.quantizers.codebook.book import Book


class VQ(Additive):
    """One codebook (van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937).

    Args:
        dim: latent width D.
        codebook_size: number of codes V.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (see ``codebook.book.Book``).
    """

    def __init__(self, dim: int, codebook_size: int = 1024, **choices: Unpack[Choices]) -> None:
        super().__init__(dim, [Book(dim, codebook_size, **choices)], [(0, dim)])
