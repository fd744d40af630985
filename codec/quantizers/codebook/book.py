"""One codebook: a table, and how it is assigned, learned and revived in training."""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.quantizers.codebook import Assign, Choices, Learn, Revive, make, resolve
from codec.quantizers.codebook.assign import Nearest
from codec.quantizers.codebook.learn import Frozen
from codec.quantizers.codebook.lookup import Lookup
from codec.quantizers.codebook.sync import broadcast, gather


@dataclass(slots=True)
class Pick:
    """What a book did with M vectors: ``value`` may have a gradient to the codes, ``own`` has one to everything."""

    index: Tensor
    value: Tensor
    own: Tensor | None
    losses: dict[str, Tensor]


class Book(Lookup):
    """A codebook of V vectors of width D, made of the choices in `codec.quantizers.codebook`.

    Args:
        dim: width D of the vectors.
        size: number of codes V.
        choices: table, assign, learn, revive, bridge, start, regularise, decay (of the running counts and means).

    Raises:
        ConfigError: an unknown option, or options that do not go together.
    """

    counts: Tensor  # (V,) running mean of the vectors per step that chose each code
    started: Tensor  # whether the book has seen data
    steps: Tensor  # training steps it has seen

    def __init__(self, dim: int, size: int, **choices: Unpack[Choices]) -> None:
        if dim < 1 or not 2 <= size <= 1 << 32:
            raise ConfigError(
                f"a codebook needs a width of at least 1 and 2 to 2^32 codes, not {dim} and {size}"
            )
        chosen = resolve(choices)
        trainable = make("learn", chosen["learn"], width=1, size=2).trainable
        super().__init__(dim, size, make("table", chosen["table"], dim=dim, size=size, trainable=trainable))
        self.start, self.decay = chosen["start"], float(chosen["decay"])
        self.learn: Learn = make("learn", chosen["learn"], width=self.table.weight.shape[1], size=size)
        self.table.requires_grad_(not isinstance(self.learn, Frozen))
        self.assign: Assign = make("assign", chosen["assign"])
        self.revive: Revive = make("revive", chosen["revive"])
        self.bridge = make("bridge", chosen["bridge"])
        self.regularise = nn.ModuleDict()
        for spec in chosen["regularise"]:
            name = spec if isinstance(spec, str) else str(spec.get("name"))
            self.regularise[name] = make("regularise", spec, size=size)
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # what `started` says, known without asking the device; None means not known
        self._ready: bool | None = None
        self._steps = 0

    @property
    def own_gradient(self) -> bool:
        """Whether each pick carries its own gradient, instead of one bridge around the whole quantizer."""
        return self.table.projects or self.assign.differentiable

    @property
    def starts_from_data(self) -> bool:
        """Whether the first vectors matter more than any later ones."""
        return self.start == "kmeans" or self.table.spreads

    @property
    def takes_nearest(self) -> bool:
        """Whether training too picks the nearest code, so that it may be searched beforehand."""
        return type(self.assign) is Nearest

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What ``pick`` gives as losses."""
        return ("commit", *(("codebook",) if self.learn.trainable else ()), *self.regularise)

    @torch.no_grad()
    def write(self, codes: Tensor) -> None:
        """Set the code vectors (V, d) to given ones, of any origin; training goes on from there.

        Raises:
            ConfigError: the table cannot be set, or the shape does not fit.
        """
        if not self.table.startable or codes.shape != self.table.weight.shape:
            raise ConfigError(f"this table cannot become {tuple(codes.shape)} given code vectors")
        self.table.write(codes)
        self.adopt()

    @torch.no_grad()
    def adopt(self) -> None:
        """Take the codes as learned: training goes on from them, with running means that begin there."""
        self.counts.fill_(1.0)
        self.learn.reset(self.table.weight, self.counts, torch.ones_like(self.counts, dtype=torch.bool))
        self.started.fill_(True)
        self.steps.fill_(math.ceil(1 / max(1 - self.decay, 1e-6)))  # they are no first guess
        self._ready = None

    def pick(self, x: Tensor, index: Tensor | None = None) -> Pick:
        """Pick a code for each of M vectors (M, D), M at least 1, with losses and gradients.

        Args:
            x: (M, D) vectors.
            index: (M,) codes if they were already searched; None lets the book assign.
        """
        query, codes, mix = self.table.query(x), self.table.codes(), None
        if self.training and (self.assign.differentiable or self.regularise):
            codes = codes.clone()  # the books are written before the backward pass needs these
        if index is None:
            index, mix = self.assign(self.table.key(query), self.table.key(codes))
        chosen = F.embedding(index, codes)
        losses = {"commit": F.mse_loss(query, chosen.detach())}
        if self.learn.trainable:
            losses["codebook"] = F.mse_loss(chosen, query.detach())
        for name, term in self.regularise.items():
            losses[name] = term(query, codes)
        if not self.own_gradient:
            return Pick(index, chosen, None, losses)
        if mix is None:
            mix = self.bridge(query, chosen)
            if self.learn.nu:
                mix = mix + self.learn.nu * (chosen - chosen.detach())
        own = self.table.lift(mix)
        return Pick(index, self.table.lift(chosen.detach()).detach(), own, losses)

    @property
    def ready(self) -> bool:
        """Whether the book has seen data; asks the device once after construction or loading."""
        if self._ready is None:
            self._ready, self._steps = bool(self.started), int(self.steps)
        return self._ready

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Start from the first vectors (M, D) seen in training, by k-means or by their spread. Once only."""
        if self.ready:
            return
        x = gather(self.table.query(x))
        if not len(x):
            return
        if self.start == "kmeans":
            if len(x) < self.size:
                warnings.warn(
                    f"k-means start: {len(x)} vectors for {self.size} codes; the books begin near what they have seen",
                    stacklevel=2,
                )
            self.table.start(x)
        elif self.table.spreads:
            self.table.spread(x)
        broadcast(*self.table.parameters(), *self.table.buffers())
        self.started.fill_(True)
        self._ready = True

    @torch.no_grad()
    def settle(self) -> None:
        """What was seen so far was there to start from: counts begin with the next step, in vectors of such a step."""
        self.steps.zero_()
        self._steps = 0

    @torch.no_grad()
    def statistics(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (M, d), counts (V,) and sums of queries (V, d) of vectors (M, D) and their codes (M,).

        The sums are empty unless the table learns from them.
        """
        query = self.table.query(x)
        counts = torch.bincount(index, minlength=self.size).to(query.dtype)
        if not self.learn.averages:
            return query, counts, query.new_zeros(0)
        return query, counts, query.new_zeros(self.size, query.shape[1]).index_add_(0, index, query)

    @torch.no_grad()
    def update(self, query: Tensor, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        """Learn from this step; all processes call it together.

        Args:
            query: (M, d) of this process; M may be 0.
            counts: (V,) of all processes.
            sums: (V, d) of all processes.
            rate: how far running means move in the long run, 1 - decay; 0 when this step must not count.
        """
        if self._steps == 0:  # as if the codes had shared the vectors of this step evenly
            if not counts.any():
                return
            self.counts.fill_(counts.sum() / self.size)
            self.learn.reset(self.table.weight, self.counts, torch.ones_like(self.counts, dtype=torch.bool))
        # until 1 / (1 - decay) steps are seen, the mean of all of them is better than a slow memory of the start
        rate = torch.maximum(rate, (rate > 0) / (self._steps + 2.0))
        self.counts.lerp_(counts, rate)
        if self.learn.averages:
            self.learn.update(self.table, self.counts, sums, rate)
        self._steps += 1
        self.steps += 1
        if self.revive.every and self._steps % self.revive.every == 0:
            self._revive(gather(query), rate)

    def _revive(self, query: Tensor, rate: Tensor) -> None:
        if not len(query):
            return
        weight = self.table.weight.clone()
        codes, moved, counts = self.revive.propose(self.table.codes(), self.counts, query)
        moved = moved & (rate > 0)
        broadcast(codes)
        self.table.write(codes)
        self.table.weight.copy_(torch.where(moved[:, None], self.table.weight, weight))
        # a code that moved begins anew in every statistic, or the running means would undo the move
        self.counts.copy_(torch.where(moved, counts, self.counts))
        self.learn.reset(self.table.weight, self.counts, moved)

    @torch.no_grad()
    def measure(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Usage and perplexity of given codes (M,), or if None of about the last 1 / (1 - decay) steps."""
        if index is not None:
            return usage_perplexity(torch.bincount(index, minlength=self.size).float(), 0.5)
        return usage_perplexity(self.counts, 0.3 * (1 - self.decay))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, size={self.size}, start={self.start}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = None


def usage_perplexity(counts: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """Share of the codes with more than ``least`` counts, and the exponential of the entropy of the counts (V,)."""
    p = counts / counts.sum().clamp_min(1e-12)
    return (counts > least).float().mean(), torch.special.entr(p).sum().exp()
