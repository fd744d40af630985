"""Additive quantizers: the reconstruction is a sum of one code vector per book, each on a span of channels."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from codec import ops
from codec.errors import ConfigError
from codec.quantizers.base import Quantizer, check_prefixes
from codec.quantizers.codebook.book import Book, Pick
from codec.quantizers.search import refine_codes, search_beam, stack_tables

Losses = dict[str, Tensor]


class Additive(Quantizer):
    """Books that quantize one after the other what the books before them left over, on their span of channels.

    A span that covers everything gives residual quantization, disjoint spans product quantization, both together
    GRVQ and MCRVQ. A book that occurs several times is shared (RQ-VAE, arXiv 2203.01941); commitment is then the
    paper's cumulative one, since the residual after book k is the latent minus the sum up to k.

    Args:
        dim: latent width D.
        books: the distinct books.
        spans: (first, last + 1) channel of each stage.
        stages: which book each stage uses; None means one book per stage.
        prefixes: legal values of ``num_codebooks``; None means 1..K.
        dropout: share of samples of a training batch that use a random prefix instead of all books.
        detach_stages: only the first stage of each channel gives the encoder a commitment gradient, as in the
            release of HiFi-Codec.
    """

    def __init__(
        self,
        dim: int,
        books: Sequence[Book],
        spans: Sequence[tuple[int, int]],
        *,
        stages: Sequence[int] | None = None,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        detach_stages: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ConfigError(f"quantizer dropout is a share of samples from 0 to 1, not {dropout}")
        self.dim = dim
        self.books = nn.ModuleList(books)
        self.spans = tuple(spans)
        self.stages = tuple(range(len(spans)) if stages is None else stages)
        self.codebook_sizes = tuple(books[b].size for b in self.stages)
        self.prefixes = check_prefixes(prefixes, len(self.stages))
        self.dropout = dropout
        self.detach_stages = detach_stages
        self._stack: tuple[list[Tensor], Tensor] | None = None

    def book(self, stage: int) -> Book:
        """The book that a stage uses."""
        return self.books[self.stages[stage]]  # type: ignore[return-value]

    # ---- the one assignment loop -----------------------------------------------------------------------------

    def _assign(
        self, x: Tensor, rows: Sequence[int], *, given: Tensor | None = None, begin: bool = False
    ) -> tuple[Tensor, list[tuple[Tensor, Pick]]]:
        """Run the stages, with gradients.

        Args:
            x: (B, T, D) latents.
            rows: how many samples each stage sees, the first ones; it never rises.
            given: (B, T, K) codes that were already searched; None lets each book assign.
            begin: let books that never saw data start from what they see.

        Returns:
            The detached sum (B, T, D), and per stage its detached input (M, d) and its pick.
        """
        residual = x.detach().nan_to_num(0.0, 0.0, 0.0)
        zero = x - x.detach()  # brings the gradient of x to each stage, and NaN to its losses
        total = torch.zeros_like(residual)
        picks: list[tuple[Tensor, Pick]] = []
        for stage, (count, (low, high)) in enumerate(zip(rows, self.spans, strict=False)):
            if count == 0:
                break
            book = self.book(stage)
            seen = residual[:count, :, low:high].reshape(-1, high - low).clone()
            if begin:
                book.begin(seen)
            attached = seen
            if not (self.detach_stages and any(low == start for start, _ in self.spans[:stage])):
                attached = seen + zero[:count, :, low:high].reshape(-1, high - low)
            pick = book.pick(attached, None if given is None else given[:count, :, stage].reshape(-1))
            value = pick.value.detach().view(count, -1, high - low)
            residual[:count, :, low:high] -= value
            total[:count, :, low:high] += value
            picks.append((seen, pick))
        return total, picks

    # ---- training --------------------------------------------------------------------------------------------

    def _forward(self, x: Tensor, num: int | None) -> tuple[Tensor, Tensor, Losses, Losses]:
        batch, frames, _ = x.shape
        begin = self.training and not all(book._ready for book in self.books)
        numbers = self._draw(batch, num, whole=begin)
        # samples with more books come first, so that every stage sees a leading block
        order = sorted(range(batch), key=lambda i: -numbers[i])
        stages = max(numbers, default=self.prefixes[-1] if num is None else num)
        rows = [sum(n > k for n in numbers) for k in range(stages)] if frames else [0] * stages
        shuffled = order != list(range(batch))
        if shuffled:
            x = x[order]
        given = None
        if not self.training:
            given = self._search(x.detach().reshape(-1, self.dim), stages, 1, 0).view(batch, frames, stages)
        total, picks = self._assign(x, rows, given=given, begin=begin)
        quantized = self._attach(x, total, picks)
        codes = torch.full((batch, frames, stages), -1, dtype=torch.int64, device=x.device)
        for k, (_, pick) in enumerate(picks):
            codes[: rows[k], :, k] = pick.index.view(rows[k], frames)
        metrics: Losses = {}
        if self.training:
            metrics["nonfinite"] = (~torch.isfinite(x.detach())).sum()
            self._learn(picks, metrics["nonfinite"])
        metrics |= self._measure(picks)
        if shuffled:
            back = sorted(range(batch), key=order.__getitem__)
            quantized, codes = quantized[back], codes[back]
        return quantized, codes, self._losses(x, picks), metrics

    def _draw(self, batch: int, num: int | None, whole: bool) -> list[int]:
        """Books per sample: all, or in training, for a ``dropout`` share of samples, one of ``prefixes`` at random."""
        full = self.prefixes[-1] if num is None else num
        if num is not None or whole or not self.training or self.dropout == 0:
            return [full] * batch
        drop = (torch.rand(batch) < self.dropout).tolist()
        drawn = torch.randint(len(self.prefixes), (batch,)).tolist()
        return [self.prefixes[i] if d else full for d, i in zip(drop, drawn, strict=True)]

    def _attach(self, x: Tensor, total: Tensor, picks: list[tuple[Tensor, Pick]]) -> Tensor:
        """The sum with its gradient: one bridge around all books, or each pick's own."""
        if not picks:
            return total + (x - x.detach())
        if picks[0][1].own is None:
            out = self.book(0).bridge(x, total)
            nu = self.book(0).learn.sync
            if nu and self.training:
                out = out + nu * self._spread([p.value for _, p in picks], total)
            return out
        own = [p.own for _, p in picks if p.own is not None]
        return total + self._spread(own, total)

    def _spread(self, values: list[Tensor], like: Tensor) -> Tensor:
        """Zero in value, the gradient of the sum of the stages' vectors."""
        out = torch.zeros_like(like)
        for value, (low, high) in zip(values, self.spans, strict=False):
            rows = value.view(-1, like.shape[1], high - low)
            out[: len(rows), :, low:high] += rows - rows.detach()
        return out

    def _losses(self, x: Tensor, picks: list[tuple[Tensor, Pick]]) -> Losses:
        """Each loss as a mean over all numbers that were quantized."""
        zero = x.new_zeros(())
        sums: Losses = {name: zero for name in self.book(0).loss_names}
        if not picks:
            return sums
        total = sum(seen.numel() for seen, _ in picks)
        for seen, pick in picks:
            for name, loss in pick.losses.items():
                sums[name] = sums[name] + loss * (seen.numel() / total)
        return sums

    @torch.no_grad()
    def _learn(self, picks: list[tuple[Tensor, Pick]], nonfinite: Tensor) -> None:
        for number, book in enumerate(self.books):
            assert isinstance(book, Book)
            used = [picks[k] for k, b in enumerate(self.stages) if b == number and k < len(picks)]
            seen = torch.cat([s for s, _ in used]) if used else book.counts.new_zeros(0, book.dim)
            index = torch.cat([p.index for _, p in used]) if used else book.steps.new_zeros(0)
            book.update(seen, index, (1 - book.decay) * (nonfinite == 0))

    @torch.no_grad()
    def _measure(self, picks: list[tuple[Tensor, Pick]]) -> Losses:
        """Usage and perplexity of each stage's book: running ones in training, of this input in eval mode."""
        if not picks:
            return {}
        pairs = []
        for k, (_, pick) in enumerate(picks):
            book = self.book(k)
            pairs.append(book.metrics(None if self.training else pick.index))
        usage, perplexity = torch.stack([u for u, _ in pairs]), torch.stack([p for _, p in pairs])
        metrics = {"usage": usage.mean(), "perplexity": perplexity.mean()}
        for k in range(len(pairs)):
            metrics[f"usage/{k}"], metrics[f"perplexity/{k}"] = usage[k], perplexity[k]
        return metrics

    # ---- inference -------------------------------------------------------------------------------------------

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        stages = [(self.book(k), self.spans[k]) for k in range(num)]
        if self._is_plain(num, beam):
            codes = self._search_plain(x, num, beam)
        else:
            codes = search_beam(x, stages, beam)
        return refine_codes(x, codes, stages, refine) if refine else codes

    def _is_plain(self, num: int, beam: int) -> bool:
        """Whether the operator can search: it knows tables in the latent space up to some size."""
        books = [self.book(k) for k in range(num)]
        return beam <= ops.MAX_BEAM and all(b.size <= ops.MAX_CODES and not b.table.projects for b in books)

    def _search_plain(self, x: Tensor, num: int, beam: int) -> Tensor:
        """Codes from the operator: G groups of equal width at once, or all books in the full width."""
        spans = self.spans[:num]
        tables = [self.book(k).codes() for k in range(num)]
        groups, width = len(set(spans)), spans[0][1] - spans[0][0]
        tiled = spans == tuple((g * width, (g + 1) * width) for g in range(groups)) * (num // groups)
        if self._stack is None or len(self._stack[0]) != num or any(
            a is not b for a, b in zip(tables, self._stack[0], strict=True)
        ):
            local = [(0, width)] * num if tiled else spans
            stack = stack_tables(tables, local, width if tiled else self.dim)
            self._stack = (tables, stack)
        stack = self._stack[1]
        if not tiled:
            return ops.rvq_encode(x, stack, beam=beam)
        stack = stack.view(num // groups, groups, *stack.shape[1:]).transpose(0, 1).contiguous()
        parts = x[:, : groups * width].reshape(len(x), groups, width).transpose(0, 1).contiguous()
        return ops.rvq_encode(parts, stack, beam=beam).permute(1, 2, 0).reshape(len(x), num)

    def _embed(self, codes: Tensor) -> Tensor:
        total = self.books[0].codes().new_zeros(len(codes), self.dim)  # type: ignore[operator]
        for k, (low, high) in enumerate(self.spans[: codes.shape[1]]):
            total[:, low:high] += self.book(k).embed(codes[:, k])
        return total


def split(dim: int, parts: int) -> list[tuple[int, int]]:
    """Spans that cut ``dim`` channels into ``parts`` nearly equal ones.

    Raises:
        ConfigError: more parts than channels.
    """
    if not 1 <= parts <= dim:
        raise ConfigError(f"{dim} channels cannot be cut into {parts} parts")
    ends = list(accumulate((dim * (i + 1) // parts - dim * i // parts for i in range(parts)), initial=0))
    return list(zip(ends, ends[1:], strict=False))
