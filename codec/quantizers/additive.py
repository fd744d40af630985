"""Additive quantizers: the result is a sum of one code vector per stage, each on a span of channels."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Unpack

import torch
from torch import Tensor, nn

from codec import ops
from codec.errors import ConfigError
from codec.nn.version import session
from codec.quantizers.base import Common, Losses, Quantizer, QuantizerOutput
from codec.quantizers.codebook import Codebook, CodebookOutput
from codec.quantizers.codebook.distributed import all_reduce
from codec.quantizers.search import refine_codes, search_beam
from codec.quantizers.stack import Stack
from codec.quantizers.usage import name_metrics

Span = tuple[int, int]  # first channel, and the first one after
Outputs = list[tuple[Tensor, CodebookOutput]]  # of each stage: what it saw, and what became of it


class Additive(Quantizer):
    """Stages that each quantize what those before them left over, on their span of channels.

    A span that covers everything gives residual quantization, disjoint spans product quantization, both together
    GRVQ and MCRVQ. A codebook that serves several stages is shared (RQ-VAE, arXiv 2203.01941). Commitment is the
    cumulative one of that paper: the residual after stage k is the latent minus the sum up to k.

    Args:
        dim: latent width D.
        spans: (first, last + 1) channel of each stage.
        codebooks: one for each stage, or one that all stages share.
        detach_stages: only the first stage of each channel gives the encoder a commitment gradient, as in the
            release of HiFi-Codec.
        shortest: see `Quantizer`, as ``step`` and what is common.
    """

    def __init__(
        self,
        dim: int,
        spans: Sequence[Span],
        codebooks: Sequence[Codebook],
        *,
        detach_stages: bool = False,
        shortest: int = 1,
        step: int = 1,
        **common: Unpack[Common],
    ) -> None:
        self.stages = (0,) * len(spans) if len(codebooks) == 1 else tuple(range(len(spans)))
        sizes = [codebooks[k].size for k in self.stages]
        super().__init__(dim, sizes, shortest=shortest, step=step, **common)
        self.codebook_list = nn.ModuleList(codebooks)
        self.spans = tuple(spans)
        self.detach_stages = detach_stages
        # stages before any channel is quantized a second time: a semantic teacher sees what they give
        self.num_first = next((k for k in range(1, len(spans)) if spans[k][0] == spans[0][0]), len(spans))
        self._kept: Stack | None = None

    def codebooks(self) -> Iterator[Codebook]:
        """The distinct codebooks, in the order of the stages that use them first."""
        return iter(self.codebook_list)  # type: ignore[arg-type]

    def codebook(self, stage: int) -> Codebook:
        """The codebook that a stage uses."""
        return self.codebook_list[self.stages[stage]]  # type: ignore[return-value]

    # ---- training ----

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        batch, frames, _ = x.shape
        bad = (~torch.isfinite(x.detach())).sum()
        if self.training:
            all_reduce(bad)
        initialise = self.training and not all(c.is_initialised for c in self.codebooks()) and not bad
        numbers, stages = self._draw(batch, num, whole=initialise)
        rows = [sum(n > k for n in numbers) if frames else 0 for k in range(stages)]
        # samples with more codebooks come first, so that every stage sees a leading block
        order = sorted(range(batch), key=lambda i: -numbers[i])
        shuffled = order != list(range(batch))
        x = x[order] if shuffled else x
        index, sums = self._search_in_forward(x, rows, initialise)
        outputs = self._quantize(x, rows, index=index, initialise=initialise)
        quantized = self._estimate(x, outputs)
        first = self._estimate(x, outputs[: self.num_first]) if len(outputs) > self.num_first else quantized
        codes = torch.full((batch, frames, stages), -1, dtype=torch.int64, device=x.device)
        for k, (_, out) in enumerate(outputs):
            codes[: rows[k], :, k] = out.index.view(rows[k], frames)
        metrics: Losses = {}
        if self.training:
            metrics["nonfinite"] = bad
            self._update(outputs, sums, bad)
        measured = [
            self.codebook(k).measure(None if self.training else o.index) for k, (_, o) in enumerate(outputs)
        ]
        metrics |= name_metrics(measured)
        if shuffled:
            back = sorted(range(batch), key=order.__getitem__)
            quantized, first, codes = quantized[back], first[back], codes[back]
        return QuantizerOutput(quantized, codes, self._losses(x, outputs), metrics, first)

    def _quantize(
        self, x: Tensor, rows: Sequence[int], *, index: Tensor | None = None, initialise: bool = False
    ) -> Outputs:
        """Run the stages, with gradients.

        Args:
            x: (B, T, D) latents.
            rows: how many samples each stage sees, the first ones; it never rises.
            index: (B, T, K) codes that were already searched; None lets each codebook assign.
            initialise: set the codebooks that never saw data from what they see.

        Returns:
            Per stage its detached input (M, d) and what its codebook made of it.
        """
        residual = x.detach().nan_to_num(0.0, 0.0, 0.0)
        zero = x - x.detach()  # brings the gradient of x to each stage, and NaN to its losses
        outputs: Outputs = []
        for stage, (count, (low, high)) in enumerate(zip(rows, self.spans, strict=False)):
            if count == 0:
                break
            codebook = self.codebook(stage)
            seen = residual[:count, :, low:high].reshape(-1, high - low).clone()
            if initialise:
                codebook.initialise(seen)
            attached = seen
            if not (self.detach_stages and any(low == start for start, _ in self.spans[:stage])):
                attached = seen + zero[:count, :, low:high].reshape(-1, high - low)
            out = codebook.quantize(attached, None if index is None else index[:count, :, stage].reshape(-1))
            residual[:count, :, low:high] -= out.vectors.detach().view(count, -1, high - low)
            outputs.append((seen, out))
        return outputs

    def _estimate(self, x: Tensor, outputs: Outputs) -> Tensor:
        """The sum of some stages with its gradient: one estimator around these stages, or each stage's own."""
        total = torch.zeros_like(x, requires_grad=False)
        for (seen, out), (low, high) in zip(outputs, self.spans, strict=False):
            count = len(seen) // x.shape[1]
            total[:count, :, low:high] += out.vectors.detach().view(count, -1, high - low)
        if not outputs:
            return total + (x - x.detach())
        if outputs[0][1].estimated is not None:
            return total + self._gradients(
                [o.estimated for _, o in outputs if o.estimated is not None], total
            )
        result: Tensor = self.codebook(0).gradient_estimator(x, total)
        nu = self.codebook(0).update_rule.nu
        if nu and self.training:
            result = result + nu * self._gradients([o.vectors for _, o in outputs], total)
        return result

    def _gradients(self, vectors: list[Tensor], like: Tensor) -> Tensor:
        """Zero in value, with the gradient of the sum of the stages' vectors."""
        result = torch.zeros_like(like)
        for part, (low, high) in zip(vectors, self.spans, strict=False):
            rows = part.view(-1, like.shape[1], high - low)
            result[: len(rows), :, low:high] += rows - rows.detach()
        return result

    def _losses(self, x: Tensor, outputs: Outputs) -> Losses:
        """Each loss as a mean over all numbers that were quantized."""
        sums: Losses = dict.fromkeys(self.codebook(0).loss_names, x.new_zeros(()))
        numbers = sum(seen.numel() for seen, _ in outputs)
        for seen, out in outputs:
            for name, loss in out.losses.items():
                sums[name] = sums[name] + loss * (seen.numel() / numbers)
        return sums

    @staticmethod
    def fuses(x: Tensor) -> bool:
        """Whether training searches all stages in one call; on a CPU stacking the tables costs more than it saves."""
        return x.is_cuda and x.numel() > 0

    @torch.no_grad()
    def _search_in_forward(
        self, x: Tensor, rows: Sequence[int], initialise: bool
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
        """Before the stages, where it pays: codes (B, T, K), and per stage the counts and sums that EMA needs.

        In training None where codebooks assign in a way of their own; no sums where a stage does not see every sample,
        or the update does not need them.
        """
        flat, shape = x.detach().reshape(-1, self.dim), (*x.shape[:2], len(rows))
        if not self.training:
            return self._search(flat, len(rows), 1, 0).view(shape), []
        used = [self.codebook(k) for k in range(len(rows))]
        if not self.fuses(x) or initialise or not self._operable or not all(c.assigns_nearest for c in used):
            return None, []
        flat = flat.nan_to_num(0.0, 0.0, 0.0)
        stack = self._stack(len(rows))
        if min(rows) < len(x) or not all(c.update_rule.averages for c in used):
            return stack.encode(flat, 1).view(shape), []
        codes, counts, sums = stack.train(flat)
        return codes.view(shape), list(zip(counts, sums, strict=True))

    @torch.no_grad()
    def _update(self, outputs: Outputs, sums: list[tuple[Tensor, Tensor]], bad: Tensor) -> None:
        """Move the codebooks by what their stages saw in all processes."""
        found: list[tuple[Codebook, Tensor, Tensor, Tensor]] = []
        for number, codebook in enumerate(self.codebooks()):
            used = [k for k, c in enumerate(self.stages[: len(outputs)]) if c == number]
            seen = torch.cat([outputs[k][0] for k in used] or [codebook.counts.new_zeros(0, codebook.dim)])
            if used and sums:
                counts, totals = (torch.stack([sums[k][part] for k in used]).sum(0) for part in (0, 1))
                found.append((codebook, seen, counts, totals))
            else:
                index = torch.cat([outputs[k][1].index for k in used] or [codebook.steps.new_zeros(0)])
                found.append((codebook, *codebook.statistics(seen, index)))
        all_reduce(*(t for _, _, counts, totals in found for t in (counts, totals)))
        for codebook, projected, counts, totals in found:
            codebook.update(projected, counts, totals, (1 - codebook.decay) * (bad == 0).float())

    # ---- inference ----

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        if beam <= ops.MAX_BEAM and self._operable:
            codes = self._stack(num).encode(x, beam)
        else:
            codes = search_beam(x, self._used(num), beam)
        return refine_codes(x, codes, self._used(num), refine) if refine else codes

    def _used(self, num: int) -> list[tuple[Codebook, Span]]:
        return [(self.codebook(k), self.spans[k]) for k in range(num)]

    def _embed(self, codes: Tensor) -> Tensor:
        if self._operable:
            return self._stack(codes.shape[1]).embed(codes)
        total = self.codebook(0).counts.new_zeros(len(codes), self.dim)
        for k, (low, high) in enumerate(self.spans[: codes.shape[1]]):
            total[:, low:high].add_(self.codebook(k).embed(codes[:, k]))
        return total

    @cached_property
    def _operable(self) -> bool:
        return all(codebook.operable for codebook in self.codebooks())

    def _stack(self, num: int) -> Stack:
        """The first codebooks as one tensor, kept while nothing changes."""
        kept = self._kept  # another thread may put another in its place
        if session.prepared and kept is not None and len(kept.tables) == num:
            return kept
        tables = [self.codebook(stage).tables()[0] for stage in range(num)]
        if kept is None or [id(t) for t in kept.tables] != [id(t) for t in tables]:
            kept = self._kept = Stack(tables, self.spans[:num], self.dim)
        return kept

    def train(self, mode: bool = True) -> "Additive":
        """Switch the mode, and let go of the tables kept for the other one."""
        self._kept = None
        return super().train(mode)


def split(dim: int, parts: int) -> list[Span]:
    """Spans that cut ``dim`` channels into ``parts`` nearly equal ones.

    Raises:
        ConfigError: more parts than channels.
    """
    if not 1 <= parts <= dim:
        raise ConfigError(f"{dim} channels cannot be cut into {parts} parts")
    ends = [dim * i // parts for i in range(parts + 1)]
    return list(pairwise(ends))
