"""Vector quantizers that differ only in the spans of their codebooks: VQ, RVQ, GRVQ, product, MCRVQ."""

from collections.abc import Sequence
from typing import Unpack

from codec.errors import ConfigError
from codec.quantizers.additive import Additive, each_size, split
from codec.quantizers.codebook import Choices, Codebook


class VQ(Additive):
    """One codebook (van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937).

    Args:
        dim: latent width D.
        codebook_size: number of codes V.
        choices: of the codebook (see `codec.quantizers.codebook.Codebook`).
    """

    def __init__(self, dim: int, codebook_size: int = 1024, **choices: Unpack[Choices]) -> None:
        super().__init__(dim, [Codebook(dim, codebook_size, **choices)], [(0, dim)])


class RVQ(Additive):
    """Each codebook quantizes what those before it left over (SoundStream, arXiv 2107.03312).

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        prefixes: legal values of ``num_codebooks`` in calls; None means 1..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all codebooks.
        shared: all stages use one codebook (RQ-VAE, arXiv 2203.01941).
        choices: of every codebook (see `codec.quantizers.codebook.Codebook`).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int | Sequence[int] = 1024,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        shared: bool = False,
        **choices: Unpack[Choices],
    ) -> None:
        sizes = each_size(codebook_size, 1 if shared else num_codebooks)
        super().__init__(
            dim,
            [Codebook(dim, size, **choices) for size in sizes],
            [(0, dim)] * num_codebooks,
            stages=[0] * num_codebooks if shared else None,
            prefixes=prefixes,
            dropout=dropout,
        )


class GRVQ(Additive):
    """Channels in groups, each with a residual quantizer of its own (HiFi-Codec, arXiv 2305.02765).

    The stream is stage-major: stage 0 of every group, then stage 1 of every group, so that whole stages are prefixes.
    HiFi-Codec itself is ``groups=2, stages=2, update=gradient, replace_dead=none, init=random``.

    Args:
        dim: latent width D.
        groups: number of groups G.
        stages: residual stages per group R; K = G * R.
        codebook_size: codes per codebook V, one number or one for each.
        prefixes: legal values of ``num_codebooks`` in calls; None means whole stages: G, 2G, ..., K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all codebooks.
        detach_stages: as the release of HiFi-Codec, where ``residual - (residual + sg[q - residual])`` has no
            gradient, so that only stage 0 gives the encoder a commitment gradient.
        choices: of every codebook (see `codec.quantizers.codebook.Codebook`).
    """

    def __init__(
        self,
        dim: int,
        groups: int = 2,
        stages: int = 2,
        codebook_size: int | Sequence[int] = 1024,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        detach_stages: bool = False,
        **choices: Unpack[Choices],
    ) -> None:
        spans = split(dim, groups) * stages
        super().__init__(
            dim,
            _codebooks(spans, codebook_size, choices),
            spans,
            prefixes=prefixes or range(groups, groups * stages + 1, groups),
            dropout=dropout,
            detach_stages=detach_stages,
        )


class ProductVQ(Additive):
    """Each codebook quantizes its own slice of the channels (multi-codebook quantization of UniTok, arXiv 2502.20321).

    UniTok itself is ``table={name: factorized, width: D / K}`` with ``update=gradient``.

    Args:
        dim: latent width D.
        num_codebooks: number of slices and codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        prefixes: legal values of ``num_codebooks`` in calls, the other slices being zero; None means 1..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all codebooks.
        choices: of every codebook (see `codec.quantizers.codebook.Codebook`).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int | Sequence[int] = 1024,
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        spans = split(dim, num_codebooks)
        codebooks = _codebooks(spans, codebook_size, choices)
        super().__init__(dim, codebooks, spans, prefixes=prefixes, dropout=dropout)


class MCRVQ(Additive):
    """The first codebooks each see a slice of the channels, the others what is left of all (arXiv 2402.12208).

    The masks are the codebooks' spans, in training and in encoding alike, so a code vector cannot leave its slice. The
    masked codebooks are one unit: the shortest prefix holds them all.

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        masked: number of codebooks that see a slice.
        prefixes: legal values of ``num_codebooks`` in calls; None means masked..K.
        dropout: share of samples of a training batch that use one of ``prefixes`` at random instead of all codebooks.
        choices: of every codebook (see `codec.quantizers.codebook.Codebook`).
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: int | Sequence[int] = 1024,
        *,
        masked: int = 3,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        if not 1 <= masked <= num_codebooks:
            raise ConfigError(f"masked codebooks must be 1 to {num_codebooks}, not {masked}")
        spans = split(dim, masked) + [(0, dim)] * (num_codebooks - masked)
        super().__init__(
            dim,
            _codebooks(spans, codebook_size, choices),
            spans,
            prefixes=prefixes or range(masked, num_codebooks + 1),
            dropout=dropout,
        )


def _codebooks(
    spans: Sequence[tuple[int, int]], codebook_size: int | Sequence[int], choices: Choices
) -> list[Codebook]:
    """A codebook for each span."""
    sizes = each_size(codebook_size, len(spans))
    return [Codebook(high - low, size, **choices) for (low, high), size in zip(spans, sizes, strict=True)]
