"""One codebook: a table of code vectors, and how it is assigned, updated and kept alive in training."""

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops
from codec.errors import ConfigError
from codec.nn.version import Changing, version
from codec.quantizers.codebook.assignment import Assignment, Nearest, nearest, scores
from codec.quantizers.codebook.choices import Choices, make, option, resolve
from codec.quantizers.codebook.distributed import broadcast, gather
from codec.quantizers.codebook.replacement import Replacement
from codec.quantizers.codebook.table import Table
from codec.quantizers.codebook.update import Frozen, Update
from codec.quantizers.usage import measure, usage_entropy


@dataclass(slots=True)
class CodebookOutput:
    """What a codebook made of M vectors.

    Attributes:
        index: (M,) codes.
        vectors: (M, D) their code vectors; the gradient, if any, goes to the codes alone.
        estimated: (M, D) the same with a gradient to the vectors too, where the codebook brings its own; else None, and
            one gradient estimator serves the whole quantizer.
        losses: unweighted scalars.
    """

    index: Tensor
    vectors: Tensor
    estimated: Tensor | None
    losses: dict[str, Tensor]


class Codebook(Changing):
    """V code vectors of width D, made of the choices in `codec.quantizers.codebook.choices`.

    Args:
        dim: width D of the vectors.
        size: number of codes V.
        choices: table, assignment, update, replace_dead, gradient_estimator, init, regularisers, decay (of the running
            counts and means).

    Raises:
        ConfigError: an unknown option, or options that do not go together.
    """

    counts: Tensor  # (V,) running mean of the vectors per step that chose each code
    initialised: Tensor  # whether the codes have seen data
    steps: Tensor  # training steps they have seen

    def __init__(self, dim: int, size: int, **choices: Unpack[Choices]) -> None:
        super().__init__()
        if dim < 1 or not isinstance(size, int) or not 2 <= size <= 1 << 32:
            raise ConfigError(
                f"a codebook needs a width of at least 1 and 2 to 2^32 codes, not {dim} and {size!r}"
            )
        chosen = resolve(choices)
        self.dim, self.size = dim, size
        self.init, self.decay = chosen["init"], float(chosen["decay"])
        trainable = option("update", chosen["update"]).trainable
        self.table: Table = make("table", chosen["table"], dim=dim, size=size, trainable=trainable)
        self.update_rule: Update = make(
            "update", chosen["update"], width=self.table.weight.shape[1], size=size
        )
        self.table.requires_grad_(not isinstance(self.update_rule, Frozen))
        self.assignment: Assignment = make("assignment", chosen["assignment"])
        self.replacement: Replacement = make("replace_dead", chosen["replace_dead"])
        self.gradient_estimator = make("gradient_estimator", chosen["gradient_estimator"])
        self.regularisers = nn.ModuleDict()
        for spec in chosen["regularisers"]:
            name = spec if isinstance(spec, str) else str(spec.get("name"))
            self.regularisers[name] = make("regularisers", spec, size=size)
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        # what `initialised` and `steps` say, known without asking the device; None means not known
        self._initialised: bool | None = None
        self._steps = 0
        self._cache: tuple[Any, Tensor, Tensor] | None = None
        self._tensors: list[Tensor] | None = None  # what the table is made of

    # ---- inference ----

    @property
    def operable(self) -> bool:
        """Whether the residual search operator can use this codebook."""
        return not self.table.projects and self.size <= ops.MAX_CODES

    def tables(self) -> tuple[Tensor, Tensor]:
        """Code vectors (V, d), and the same as they are compared (V, d); detached, and kept in eval mode."""
        # another thread may let go of either at any time
        tensors, cache = self._tensors, self._cache
        if tensors is None:
            tensors = self._tensors = [*self.table.parameters(), *self.table.buffers()]
        keep = not self.training and not any(t.is_inference() for t in tensors)
        state = [version(t) for t in tensors] if keep else None
        if keep and cache is not None and cache[0] == state:
            return cache[1], cache[2]
        with torch.inference_mode(False) if keep else nullcontext(), torch.no_grad():
            codes = self.table.codes().detach()
            compared = self.table.compared(codes)
        self._cache = (state, codes, compared) if keep else None
        return codes, compared

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index (M,) of the nearest code of vectors (M, D), the same in any batch."""
        return nearest(self.table.compared(self.table.project_in(x)), self.tables()[1])

    @torch.no_grad()
    def candidates(self, x: Tensor, number: int) -> Tensor:
        """Indices (M, number) of the nearest codes of vectors (M, D), the nearest first."""
        x, codes = self.table.compared(self.table.project_in(x)), self.tables()[1]
        # in double precision, so that what else is in the batch cannot change which are the nearest
        return scores(x.double(), codes.double()).topk(number, dim=1).indices

    def embed(self, index: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M,)."""
        return self.table.project_out(self.tables()[0].index_select(0, index))

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; the table is looked at anew."""
        self._tensors = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._tensors = None  # moving and loading may put other tensors in place of the table's
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._tensors = self._initialised = None
        super()._load_from_state_dict(*args, **kwargs)

    def extra_repr(self) -> str:
        """Width, size and initialisation."""
        return f"dim={self.dim}, size={self.size}, init={self.init}"

    # ---- training ----

    @property
    def own_gradient(self) -> bool:
        """Whether each output carries its own gradient, instead of one estimator around the whole quantizer."""
        return self.table.projects or self.assignment.differentiable

    @property
    def init_from_data(self) -> bool:
        """Whether the first vectors matter more than any later ones."""
        return self.init == "kmeans" or self.table.fits_data

    @property
    def assigns_nearest(self) -> bool:
        """Whether training too takes the nearest code, so that it may be searched beforehand."""
        return type(self.assignment) is Nearest

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What ``quantize`` gives as losses."""
        return ("commit", *(("codebook",) if self.update_rule.trainable else ()), *self.regularisers)

    @torch.no_grad()
    def load_table(self, codes: Tensor) -> None:
        """Set the code vectors (V, d) to given ones, of any origin; training goes on from there.

        Raises:
            ConfigError: the table cannot be set, or the shape does not fit.
        """
        if not self.table.loadable:
            raise ConfigError(f"the code vectors of a {type(self.table).__name__} table cannot be set")
        if codes.shape != self.table.weight.shape:
            raise ConfigError(
                f"code vectors of the shape {tuple(codes.shape)} were given for a codebook of "
                f"{tuple(self.table.weight.shape)}"
            )
        self.table.write(codes)
        self.mark_initialised()

    @torch.no_grad()
    def mark_initialised(self) -> None:
        """Take the codes as they are: training goes on from them, with running means that begin there."""
        self.counts.fill_(1.0)
        self.update_rule.reset(self.table.weight, self.counts, torch.ones_like(self.counts, dtype=torch.bool))
        self.initialised.fill_(True)
        self.steps.fill_(math.ceil(1 / max(1 - self.decay, 1e-6)))  # they are no first guess
        self._initialised = None

    def quantize(self, x: Tensor, index: Tensor | None = None) -> CodebookOutput:
        """Choose a code for each of M vectors (M, D), M at least 1, with losses and gradients.

        Args:
            x: (M, D) vectors.
            index: (M,) codes if they were already searched; None lets the codebook assign.
        """
        x, codes, mix = self.table.project_in(x), self.table.codes(), None
        if self.training and (self.assignment.differentiable or self.regularisers):
            codes = codes.clone()  # the table is written before the backward pass needs these
        if index is None:
            index, mix = self.assignment(self.table.compared(x), self.table.compared(codes))
        chosen = F.embedding(index, codes)
        losses = {"commit": F.mse_loss(x, chosen.detach())}
        if self.update_rule.trainable:
            losses["codebook"] = F.mse_loss(chosen, x.detach())
        for name, term in self.regularisers.items():
            losses[name] = term(x, codes)
        if not self.own_gradient:
            return CodebookOutput(index, chosen, None, losses)
        if mix is None:
            mix = self.gradient_estimator(x, chosen)
            if self.update_rule.nu:
                mix = mix + self.update_rule.nu * (chosen - chosen.detach())
        estimated = self.table.project_out(mix)
        return CodebookOutput(index, self.table.project_out(chosen.detach()).detach(), estimated, losses)

    @property
    def is_initialised(self) -> bool:
        """Whether the codes have seen data; asks the device once after construction or loading."""
        if self._initialised is None:
            self._initialised, self._steps = bool(self.initialised), int(self.steps)
        return self._initialised

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set the codes from the first vectors (M, D) seen in training, where they come from data. Once only."""
        if self.is_initialised:
            return
        x = gather(self.table.project_in(x))
        if not len(x):
            return
        if self.init == "kmeans" and len(x) < self.size:
            warnings.warn(
                f"k-means start: {len(x)} vectors for {self.size} codes; the codebooks begin near what they have seen",
                stacklevel=2,
            )
        if self.init_from_data:
            self.table.init_from(x)
        broadcast(*self.table.parameters(), *self.table.buffers())
        self.initialised.fill_(True)
        self._initialised = True

    @torch.no_grad()
    def restart_counts(self) -> None:
        """Begin the counts with the next step: what was seen before was there for initialisation only."""
        self.steps.zero_()
        self._steps = 0

    @torch.no_grad()
    def statistics(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projected vectors (M, d), counts (V,) and their sums (V, d) of vectors (M, D) and their codes (M,).

        The sums are empty unless the update needs them.
        """
        x = self.table.project_in(x)
        counts = torch.bincount(index, minlength=self.size).to(x.dtype)
        if not self.update_rule.averages:
            return x, counts, x.new_zeros(0)
        return x, counts, x.new_zeros(self.size, x.shape[1]).index_add_(0, index, x)

    @torch.no_grad()
    def update(self, x: Tensor, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        """Move the codes after a step; all processes call it together.

        Args:
            x: (M, d) projected vectors of this process; M may be 0.
            counts: (V,) of all processes.
            sums: (V, d) of all processes.
            rate: how far running means move in the long run, 1 - decay; 0 when this step must not count.
        """
        if self._steps == 0:  # as if the codes had shared the vectors of this step evenly
            if not counts.any():
                return
            self.counts.fill_(counts.sum() / self.size)
            everything = torch.ones_like(self.counts, dtype=torch.bool)
            self.update_rule.reset(self.table.weight, self.counts, everything)
        # until 1 / (1 - decay) steps are seen, the mean of all of them is better than a slow memory of the first ones
        rate = torch.maximum(rate, (rate > 0) / (self._steps + 2.0))
        self.counts.lerp_(counts, rate)
        if self.update_rule.averages:
            self.update_rule.update(self.table, self.counts, sums, rate)
        self._steps += 1
        self.steps += 1
        if self.replacement.every and self._steps % self.replacement.every == 0:
            self._replace_dead(gather(x), rate)

    def _replace_dead(self, x: Tensor, rate: Tensor) -> None:
        if not len(x):
            return
        weight = self.table.weight.clone()
        codes, moved, counts = self.replacement.propose(self.table.codes(), self.counts, x)
        moved = moved & (rate > 0)
        broadcast(codes)
        self.table.write(codes)
        self.table.weight.copy_(torch.where(moved[:, None], self.table.weight, weight))
        # a code that moved begins anew in every statistic, or the running means would undo the move
        self.counts.copy_(torch.where(moved, counts, self.counts))
        self.update_rule.reset(self.table.weight, self.counts, moved)

    @torch.no_grad()
    def measure(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Usage and entropy of given codes (M,), or if None of about the last 1 / (1 - decay) steps."""
        return (
            usage_entropy(self.counts, 0.3 * (1 - self.decay)) if index is None else measure(index, self.size)
        )
