"""Split residual vector quantization: semantic codebooks and acoustic codebooks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.linear import Linear
from codec.quantizers.base import Quantizer, QuantizerOutput
from codec.quantizers.codebook import Choices
from codec.quantizers.vector import RVQ, Sizes, each_size


class SplitRVQ(Quantizer):
    """Semantic codebooks beside acoustic ones, both kinds with projections of their own (Mimi, arXiv 2410.00037).

    Quantizer dropout leaves the semantic codebooks alone, and semantic distillation sees them alone.

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K of both kinds.
        codebook_size: codes per codebook V, one number or one for each.
        semantic_codebooks: how many of them are semantic.
        width: width inside; None means D.
        parallel: both see the latents (Mimi); else the acoustic codebooks see what the semantic ones left over.
        settings: see `Settings`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 8,
        codebook_size: Sizes = 2048,
        *,
        semantic_codebooks: int = 1,
        width: int | None = None,
        parallel: bool = True,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        **choices: Unpack[Choices],
    ) -> None:
        first, rest, width = semantic_codebooks, num_codebooks - semantic_codebooks, width or dim
        if first < 1 or rest < 1:
            raise ConfigError(
                f"{num_codebooks} codebooks cannot be {first} semantic and {rest} acoustic ones"
            )
        sizes = each_size(codebook_size, num_codebooks)
        super().__init__(dim, sizes, prefixes=prefixes, shortest=first)
        if self.prefixes[0] < first:
            raise ConfigError(
                f"the shortest prefix, {self.prefixes[0]}, must hold the {first} semantic codebooks"
            )
        self.num_first, self.parallel = first, parallel
        self.in_proj = nn.ModuleList(Linear(dim, width, bias=False) for _ in range(2))
        self.out_proj = nn.ModuleList(Linear(width, dim, bias=False) for _ in range(2))
        self.semantic_rvq = RVQ(width, first, sizes[:first], prefixes=(first,), **choices)
        acoustic = [p - first for p in self.prefixes if p > first]
        self.acoustic_rvq = RVQ(width, rest, sizes[first:], prefixes=acoustic, dropout=dropout, **choices)

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        semantic = self.semantic_rvq._forward(self._each(self.in_proj[0], x), None)
        first = self._each(self.out_proj[0], semantic.quantized)
        rest = None if num is None else num - self.num_first
        if rest == 0:
            return replace(semantic, quantized=first, first_stage=first)
        left = x if self.parallel else x - first.detach()
        acoustic = self.acoustic_rvq._forward(self._each(self.in_proj[1], left), rest)
        codes = torch.cat([semantic.codes, acoustic.codes], 2)
        share = self.num_first / codes.shape[2]
        losses = {k: share * v + (1 - share) * acoustic.losses[k] for k, v in semantic.losses.items()}
        metrics = semantic.metrics
        for name, value in acoustic.metrics.items():
            kind, _, codebook = name.partition("/")
            if codebook:
                metrics[f"{kind}/{int(codebook) + self.num_first}"] = value
            elif kind != "nonfinite":
                metrics[kind] = share * metrics[kind] + (1 - share) * value
        quantized = first + self._each(self.out_proj[1], acoustic.quantized)
        return QuantizerOutput(quantized, codes, losses, metrics, first)

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        first = self.num_first
        codes = self.semantic_rvq._search(self.in_proj[0](x), first, beam, refine)
        if num == first:
            return codes
        left = x if self.parallel else x - self.out_proj[0](self.semantic_rvq._embed(codes))
        return torch.cat(
            [codes, self.acoustic_rvq._search(self.in_proj[1](left), num - first, beam, refine)], 1
        )

    def _embed(self, codes: Tensor) -> Tensor:
        first = self.num_first
        total = self.out_proj[0](self.semantic_rvq._embed(codes[:, :first]))
        if codes.shape[1] > first:
            total = total + self.out_proj[1](self.acoustic_rvq._embed(codes[:, first:]))
        return total

    @staticmethod
    def _each(layer: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = layer(x.reshape(-1, x.shape[2]))
        return y.view(x.shape[0], x.shape[1], y.shape[1])
