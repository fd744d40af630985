"""Additive quantizers: the result is a sum of one code vector per book, each on a span of channels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from codec import ops
from codec.errors import ConfigError
from codec.quantizers.base import Losses, Pass, Quantizer, check_prefixes, name_metrics
from codec.quantizers.codebook.book import Book, Pick
from codec.quantizers.codebook.sync import all_reduce
from codec.quantizers.search import refine_codes, search_beam
from codec.quantizers.stack import Stack


class Additive(Quantizer):
    """Books that each quantize what the books before them left over, on their span of channels.

    A span that covers everything gives residual quantization, disjoint spans product quantization, both together
    GRVQ and MCRVQ. A book that serves several stages is shared (RQ-VAE, arXiv 2203.01941). Commitment is the
    cumulative one of that paper: the residual after stage k is the latent minus the sum up to k.

    Args:
        dim: latent width D.
        books: the distinct books.
        spans: (first, last + 1) channel of each stage.
        stages: which book each stage uses; None means one book per stage.
        prefixes: legal values of ``num_codebooks``; None means 1..K.
        dropout: share of samples of a training batch that use a random prefix instead of all books.
        detach_stages: only the first stage of each channel gives the encoder a commitment gradient, as in the
            release of HiFi-Codec.

    Raises:
        ConfigError: settings out of range.
    """

    def __init__(
        self,
        dim: int,
        books: Sequence[nn.Module],
        spans: Sequence[tuple[int, int]],
        *,
        stages: Sequence[int] | None = None,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        detach_stages: bool = False,
    ) -> None:
        super().__init__(dropout)
        self.dim = dim
        self.books = nn.ModuleList(books)
        self.spans = tuple(spans)
        self.stages = tuple(range(len(spans)) if stages is None else stages)
        self.prefixes = check_prefixes(prefixes, len(self.stages))
        self.codebook_sizes = tuple(self.book(k).size for k in range(len(self.stages)))
        self.detach_stages = detach_stages
        # the stages that come before any channel is quantized a second time
        self.first = next((k for k in range(1, len(spans)) if spans[k][0] == spans[0][0]), len(spans))
        self._kept: Stack | None = None

    def book(self, stage: int) -> Book:
        """The book that a stage uses."""
        return self.books[self.stages[stage]]  # type: ignore[return-value]

    @torch.no_grad()
    def write(self, codebooks: Sequence[Tensor]) -> None:
        """Set the code vectors (V, D) of each distinct book, whatever they come from.

        Raises:
            ConfigError: their number or a shape does not fit, or the tables cannot be set.
        """
        if len(codebooks) != len(self.books):
            raise ConfigError(f"{len(codebooks)} codebooks were given, but there are {len(self.books)}")
        for book, codes in zip(self.books, codebooks, strict=True):
            assert isinstance(book, Book)
            book.write(codes)

    def _assign(
        self, x: Tensor, rows: Sequence[int], *, given: Tensor | None = None, begin: bool = False
    ) -> list[tuple[Tensor, Pick]]:
        """Run the stages, with gradients.

        Args:
            x: (B, T, D) latents.
            rows: how many samples each stage sees, the first ones; it never rises.
            given: (B, T, K) codes that were already searched; None lets each book assign.
            begin: let books that never saw data start from what they see.

        Returns:
            Per stage its detached input (M, d) and its pick.
        """
        residual = x.detach().nan_to_num(0.0, 0.0, 0.0)
        zero = x - x.detach()  # brings the gradient of x to each stage, and NaN to its losses
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
            residual[:count, :, low:high] -= pick.value.detach().view(count, -1, high - low)
            picks.append((seen, pick))
        return picks

    # ---- training ----

    def _forward(self, x: Tensor, num: int | None) -> Pass:
        batch, frames, _ = x.shape
        bad = (~torch.isfinite(x.detach())).sum()
        if self.training:
            all_reduce(bad)
        begin = self.training and not all(self.book(k).ready for k in range(len(self.stages))) and not bad
        numbers = self._draw(batch, num, whole=begin)
        stages = max(numbers, default=self.prefixes[-1] if num is None else num)
        rows = [sum(n > k for n in numbers) if frames else 0 for k in range(stages)]
        # samples with more books come first, so that every stage sees a leading block
        order = sorted(range(batch), key=lambda i: -numbers[i])
        shuffled = order != list(range(batch))
        x = x[order] if shuffled else x
        given, sums = self._search_in_forward(x, rows, begin)
        picks = self._assign(x, rows, given=given, begin=begin)
        quantized = self._attach(x, picks)
        first = self._attach(x, picks[: self.first]) if len(picks) > self.first else quantized
        codes = torch.full((batch, frames, stages), -1, dtype=torch.int64, device=x.device)
        for k, (_, pick) in enumerate(picks):
            codes[: rows[k], :, k] = pick.index.view(rows[k], frames)
        metrics: Losses = {}
        if self.training:
            metrics["nonfinite"] = bad
            self._learn(picks, sums, bad)
        measured = [
            self.book(k).measure(None if self.training else p.index) for k, (_, p) in enumerate(picks)
        ]
        metrics |= name_metrics(measured)
        if shuffled:
            back = sorted(range(batch), key=order.__getitem__)
            quantized, first, codes = quantized[back], first[back], codes[back]
        return quantized, first, codes, self._losses(x, picks), metrics

    def _attach(self, x: Tensor, picks: list[tuple[Tensor, Pick]]) -> Tensor:
        """The sum of some picks with its gradient: one bridge around these stages, or each pick's own."""
        total = torch.zeros_like(x, requires_grad=False)
        for (seen, pick), (low, high) in zip(picks, self.spans, strict=False):
            count = len(seen) // x.shape[1]
            total[:count, :, low:high] += pick.value.detach().view(count, -1, high - low)
        if not picks:
            return total + (x - x.detach())
        if picks[0][1].own is not None:
            return total + self._spread([p.own for _, p in picks if p.own is not None], total)
        out: Tensor = self.book(0).bridge(x, total)
        nu = self.book(0).learn.nu
        if nu and self.training:
            out = out + nu * self._spread([p.value for _, p in picks], total)
        return out

    def _spread(self, values: list[Tensor], like: Tensor) -> Tensor:
        """Zero in value, with the gradient of the sum of the stages' vectors."""
        out = torch.zeros_like(like)
        for value, (low, high) in zip(values, self.spans, strict=False):
            rows = value.view(-1, like.shape[1], high - low)
            out[: len(rows), :, low:high] += rows - rows.detach()
        return out

    def _losses(self, x: Tensor, picks: list[tuple[Tensor, Pick]]) -> Losses:
        """Each loss as a mean over all numbers that were quantized."""
        sums: Losses = dict.fromkeys(self.book(0).loss_names, x.new_zeros(()))
        numbers = sum(seen.numel() for seen, _ in picks)
        for seen, pick in picks:
            for name, loss in pick.losses.items():
                sums[name] = sums[name] + loss * (seen.numel() / numbers)
        return sums

    @staticmethod
    def fuses(x: Tensor) -> bool:
        """Whether training searches all stages in one call; on a CPU it does not pay to put the books together."""
        return x.is_cuda and x.numel() > 0

    @torch.no_grad()
    def _search_in_forward(
        self, x: Tensor, rows: Sequence[int], begin: bool
    ) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
        """Before the stages, where it pays: codes (B, T, K), and per stage the counts and sums that EMA needs.

        In training None where books assign in a way of their own; no sums where a stage does not see every sample, or
        books do not learn from them.
        """
        flat, shape = x.detach().reshape(-1, self.dim), (*x.shape[:2], len(rows))
        if not self.training:
            return self._search(flat, len(rows), 1, 0).view(shape), []
        books = [self.book(k) for k in range(len(rows))]
        if not self.fuses(x) or begin or not self._operable or not all(b.takes_nearest for b in books):
            return None, []
        flat = flat.nan_to_num(0.0, 0.0, 0.0)
        stack = self._stack(len(rows))
        if min(rows) < len(x) or not all(book.learn.averages for book in books):
            return stack.encode(flat, 1).view(shape), []
        codes, counts, sums = stack.train(flat)
        return codes.view(shape), list(zip(counts, sums, strict=True))

    @torch.no_grad()
    def _learn(
        self, picks: list[tuple[Tensor, Pick]], sums: list[tuple[Tensor, Tensor]], bad: Tensor
    ) -> None:
        learned: list[tuple[Book, Tensor, Tensor, Tensor]] = []
        for number, book in enumerate(self.books):
            assert isinstance(book, Book)
            used = [k for k, b in enumerate(self.stages) if b == number and k < len(picks)]
            seen = torch.cat([picks[k][0] for k in used]) if used else book.counts.new_zeros(0, book.dim)
            if used and sums:
                counts, totals = (
                    sum((sums[k][part] for k in used[1:]), sums[used[0]][part]) for part in (0, 1)
                )
                learned.append((book, seen, counts, totals))
            else:
                index = torch.cat([picks[k][1].index for k in used]) if used else book.steps.new_zeros(0)
                learned.append((book, *book.statistics(seen, index)))
        all_reduce(*(t for _, _, counts, sums in learned for t in (counts, sums)))
        for book, query, counts, totals in learned:
            book.update(query, counts, totals, (1 - book.decay) * (bad == 0).float())

    # ---- inference ----

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        if beam <= ops.MAX_BEAM and self._operable:
            codes = self._stack(num).encode(x, beam)
        else:
            codes = search_beam(x, self._used(num), beam)
        return refine_codes(x, codes, self._used(num), refine) if refine else codes

    def _used(self, num: int) -> list[tuple[Book, tuple[int, int]]]:
        return [(self.book(k), self.spans[k]) for k in range(num)]

    def _embed(self, codes: Tensor) -> Tensor:
        if self._operable:
            return self._stack(codes.shape[1]).embed(codes)
        total = self.book(0).counts.new_zeros(len(codes), self.dim)
        for k, (low, high) in enumerate(self.spans[: codes.shape[1]]):
            total[:, low:high].add_(self.book(k).embed(codes[:, k]))
        return total

    @property
    def _operable(self) -> bool:
        return all(book.operable for book in self.books)

    def _stack(self, num: int) -> Stack:
        """The first books as one tensor, kept while nothing changes."""
        tables = [self.book(stage).tables()[0] for stage in range(num)]
        if self._kept is None or [id(t) for t in self._kept.tables] != [id(t) for t in tables]:
            self._kept = Stack(tables, self.spans[:num], self.dim)
        return self._kept

    def train(self, mode: bool = True) -> "Additive":
        """Switch the mode, and let go of the tables kept for the other one."""
        self._kept = None
        return super().train(mode)


def split(dim: int, parts: int) -> list[tuple[int, int]]:
    """Spans that cut ``dim`` channels into ``parts`` nearly equal ones.

    Raises:
        ConfigError: more parts than channels.
    """
    if not 1 <= parts <= dim:
        raise ConfigError(f"{dim} channels cannot be cut into {parts} parts")
    ends = [dim * i // parts for i in range(parts + 1)]
    return list(pairwise(ends))
