"""Vector quantizers that differ only in the spans of their codebooks: VQ, RVQ, GRVQ, product, MCRVQ."""

from collections.abc import Sequence
from typing import Unpack

from codec.errors import ConfigError
from codec.quantizers.additive import Additive, Span, split
from codec.quantizers.base import Common
from codec.quantizers.codebook import Choices, Codebook

Sizes = int | Sequence[int]


class Settings(Common, Choices, total=False):
    """`Common` ones of all quantizers, and the `Choices` of every codebook."""


class VectorQuantizer(Additive):
    """Stages that all make the same choices.

    Args:
        dim: latent width D.
        spans: (first, last + 1) channel of each stage.
        codebook_size: codes per codebook V, one number or one for each.
        shared: all stages use one codebook.
        detach_stages: see `Additive`.
        shortest: see `Quantizer`, as ``step``, ``prefixes`` and ``dropout``.
        choices: of every codebook, see `Codebook`.
    """

    def __init__(
        self,
        dim: int,
        spans: Sequence[Span],
        codebook_size: Sizes,
        *,
        shared: bool = False,
        detach_stages: bool = False,
        shortest: int = 1,
        step: int = 1,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        own = spans[:1] if shared else spans
        sizes = each_size(codebook_size, len(own))
        codebooks = [Codebook(b - a, size, **choices) for (a, b), size in zip(own, sizes, strict=True)]
        common = Common(prefixes=prefixes, dropout=dropout)
        super().__init__(
            dim, spans, codebooks, detach_stages=detach_stages, shortest=shortest, step=step, **common
        )


class VQ(VectorQuantizer):
    """One codebook (van den Oord et al., Neural Discrete Representation Learning, arXiv 1711.00937).

    Args:
        dim: latent width D.
        codebook_size: number of codes V.
        choices: of the codebook, see `Codebook`.
    """

    def __init__(self, dim: int, codebook_size: int = 1024, **choices: Unpack[Choices]) -> None:
        super().__init__(dim, [(0, dim)], [codebook_size], **choices)


class RVQ(VectorQuantizer):
    """Each codebook quantizes what those before it left over (SoundStream, arXiv 2107.03312).

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        shared: all stages use one codebook (RQ-VAE, arXiv 2203.01941).
        settings: see `Settings`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: Sizes = 1024,
        *,
        shared: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(dim, [(0, dim)] * num_codebooks, codebook_size, shared=shared, **settings)


class GRVQ(VectorQuantizer):
    """Channels in groups, each with a residual quantizer of its own (HiFi-Codec, arXiv 2305.02765).

    The stream is stage-major: stage 0 of every group, then stage 1 of every group. Whole stages are prefixes where no
    others are given. HiFi-Codec itself is ``groups=2, stages=2, update=gradient, replace_dead=none, init=random``.

    Args:
        dim: latent width D.
        groups: number of groups G.
        stages: residual stages per group R; K = G * R.
        codebook_size: codes per codebook V, one number or one for each.
        detach_stages: as the release of HiFi-Codec, where ``residual - (residual + sg[q - residual])`` has no
            gradient, so that only stage 0 gives the encoder a commitment gradient.
        settings: see `Settings`.
    """

    def __init__(
        self,
        dim: int,
        groups: int = 2,
        stages: int = 2,
        codebook_size: Sizes = 1024,
        *,
        detach_stages: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        spans = split(dim, groups) * stages
        super().__init__(
            dim, spans, codebook_size, detach_stages=detach_stages, shortest=groups, step=groups, **settings
        )


class ProductVQ(VectorQuantizer):
    """Each codebook quantizes its own slice of the channels (multi-codebook quantization of UniTok, arXiv 2502.20321).

    In a prefix the other slices are zero. UniTok itself is ``table={name: factorized, width: D / K}`` with
    ``update=gradient``.

    Args:
        dim: latent width D.
        num_codebooks: number of slices and codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        settings: see `Settings`.
    """

    def __init__(
        self, dim: int, num_codebooks: int = 8, codebook_size: Sizes = 1024, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(dim, split(dim, num_codebooks), codebook_size, **settings)


class MCRVQ(VectorQuantizer):
    """The first codebooks each see a slice of the channels, the others what is left of all (arXiv 2402.12208).

    The masks are the codebooks' spans, in training and in encoding alike, so a code vector cannot leave its slice. The
    masked codebooks are one unit: where no prefixes are given, the shortest one holds them all.

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        masked: number of codebooks that see a slice.
        settings: see `Settings`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: Sizes = 1024,
        *,
        masked: int = 3,
        **settings: Unpack[Settings],
    ) -> None:
        if not 1 <= masked <= num_codebooks:
            raise ConfigError(f"masked codebooks must be 1 to {num_codebooks}, not {masked}")
        spans = split(dim, masked) + [(0, dim)] * (num_codebooks - masked)
        super().__init__(dim, spans, codebook_size, shortest=masked, **settings)


def each_size(codebook_size: Sizes, count: int) -> list[int]:
    """V of each of so many codebooks, where one number stands for all.

    Raises:
        ConfigError: a list of another length.
    """
    sizes = [codebook_size] * count if isinstance(codebook_size, int) else list(codebook_size)
    if len(sizes) != count:
        raise ConfigError(f"codebook_size lists {len(sizes)} sizes, but there are {count} codebooks")
    return sizes
