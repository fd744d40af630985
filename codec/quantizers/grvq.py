"""Group-residual vector quantization (HiFi-Codec)."""

from collections.abc import Sequence
from typing import Unpack

from codec.quantizers.additive import Additive, split
from codec.quantizers.codebook import Choices
from codec.quantizers.codebook.book import Book


class GRVQ(Additive):
    """Channels in groups, each with a residual quantizer of its own (HiFi-Codec, arXiv 2305.02765).

    The stream is stage-major: stage 0 of every group, then stage 1 of every group, so that whole stages are prefixes.
    HiFi-Codec itself is ``groups=2, stages=2, learn=gradient, revive=none, start=random``.

    Args:
        dim: latent width D.
        groups: number of groups G.
        stages: residual stages per group R; K = G * R.
        codebook_size: codes per book V.
        prefixes: legal values of ``num_codebooks`` in calls; None means whole stages: G, 2G, ..., K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all books.
        detach_stages: as the release of HiFi-Codec, where ``residual - (residual + sg[q - residual])`` has no
            gradient, so that only stage 0 gives the encoder a commitment gradient.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (see ``codebook.book.Book``).
    """

    def __init__(
        self,
        dim: int,
        groups: int = 2,
        stages: int = 2,
        codebook_size: int = 1024,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        detach_stages: bool = False,
        **choices: Unpack[Choices],
    ) -> None:
        spans = split(dim, groups) * stages
        super().__init__(
            dim,
            [Book(high - low, codebook_size, **choices) for low, high in spans],
            spans,
            prefixes=prefixes or range(groups, groups * stages + 1, groups),
            dropout=dropout,
            detach_stages=detach_stages,
        )
