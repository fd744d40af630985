"""One codebook: a table, and how it is searched, learned and revived."""

import warnings
from dataclasses import dataclass
from typing import Any, Unpack

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from codec import ops
from codec.errors import ConfigError
from codec.quantizers.codebook import Choices, make
from codec.quantizers.codebook.assign import Assign, nearest
from codec.quantizers.codebook.kmeans import kmeans
from codec.quantizers.codebook.learn import Learn
from codec.quantizers.codebook.revive import Revive
from codec.quantizers.codebook.table import Table

DEFAULTS: dict[str, Any] = {
    "table": "free",
    "assign": "nearest",
    "learn": "ema",
    "revive": "threshold",
    "bridge": "straight_through",
    "start": "kmeans",
    "decay": 0.99,
}


@dataclass(slots=True)
class Pick:
    """What one book did with M vectors: ``value`` is detached, ``own`` has a gradient of its own or is None."""

    index: Tensor
    value: Tensor
    own: Tensor | None
    losses: dict[str, Tensor]


class Book(nn.Module):
    """A codebook of V vectors of width D, made of the choices of ``OPTIONS``.

    Args:
        dim: width D of the vectors.
        size: number of codes V.
        choices: ``table``, ``assign``, ``learn``, ``revive``, ``bridge``, each an option's name or a mapping with its
            arguments; ``start`` (kmeans or uniform) and ``decay`` (of the running counts and means).

    Raises:
        ConfigError: an unknown option, or options that do not go together.
    """

    counts: Tensor
    started: Tensor
    steps: Tensor

    def __init__(self, dim: int, size: int, **choices: Unpack[Choices]) -> None:
        super().__init__()
        if dim < 1 or size < 2:
            raise ConfigError(f"a codebook needs a width of at least 1 and 2 codes, not {dim} and {size}")
        chosen = DEFAULTS | dict(choices)
        unknown = set(chosen) - set(DEFAULTS)
        if unknown:
            raise ConfigError(f"unknown quantizer option {sorted(unknown)[0]!r}; there are {', '.join(DEFAULTS)}")
        self.dim, self.size, self.decay = dim, size, float(chosen["decay"])
        self.start = chosen["start"]
        if self.start not in ("kmeans", "uniform"):
            raise ConfigError(f"quantizer start {self.start!r} does not exist; there are kmeans, uniform")
        trainable = make("learn", chosen["learn"], dim=1, size=1).trainable
        self.table: Table = make("table", chosen["table"], dim=dim, size=size, trainable=trainable)
        width = self.table.codes().shape[1]
        self.learn: Learn = make("learn", chosen["learn"], dim=width, size=size)
        self.assign: Assign = make("assign", chosen["assign"])
        self.revive: Revive = make("revive", chosen["revive"])
        self.bridge = make("bridge", chosen["bridge"])
        self.register_buffer("counts", torch.zeros(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._ready = False  # what `started` and `steps` say, known without asking the device
        self._steps = 0
        self._cache: tuple[Any, Tensor] | None = None

    @property
    def own_gradient(self) -> bool:
        """Whether each pick carries its own gradient, instead of one bridge around the whole quantizer."""
        return self.table.projects or self.assign.differentiable

    # ---- inference -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Code vectors (V, d) of the search space, computed once while nothing changes in eval mode."""
        if self.training:
            return self.table.codes().detach()
        tensors = [*self.table.parameters(), *self.table.buffers()]
        if any(t.is_inference() for t in tensors):
            return self.table.codes().detach()
        key = [(t.data_ptr(), t._version) for t in tensors]
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False):
                self._cache = (key, self.table.codes().detach())
        return self._cache[1]

    @torch.no_grad()
    def search(self, x: Tensor) -> Tensor:
        """Index (M,) of the nearest code of vectors (M, D), the same in any batch."""
        query, codes = self.table.query(x), self.codes()
        if self.size > ops.MAX_CODES:
            return nearest(query, codes)
        return ops.rvq_encode(query, codes[None])[:, 0]

    @torch.no_grad()
    def embed(self, index: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M,)."""
        return self.table.lift(F.embedding(index, self.codes()))

    # ---- training --------------------------------------------------------------------------------------------

    @property
    def loss_names(self) -> tuple[str, ...]:
        """What ``pick`` gives as losses."""
        return ("commit", "codebook") if self.learn.trainable else ("commit",)

    def pick(self, x: Tensor, index: Tensor | None = None) -> Pick:
        """Pick a code for each of M vectors (M, D), M at least 1, with losses and gradients.

        Args:
            x: (M, D) vectors.
            index: (M,) codes if they were already searched; None lets the book assign.
        """
        query, codes, mix = self.table.query(x), self.table.codes(), None
        if index is None:
            index, mix = self.assign(query, codes)
        chosen = F.embedding(index, codes)
        losses = {"commit": F.mse_loss(query, chosen.detach())}
        if self.learn.trainable:
            losses["codebook"] = F.mse_loss(chosen, query.detach())
        if not self.own_gradient:
            return Pick(index, chosen, None, losses)
        own = self.table.lift(self.bridge(query, chosen) if mix is None else mix)
        return Pick(index, self.table.lift(chosen).detach(), own, losses)

    @torch.no_grad()
    def begin(self, x: Tensor) -> None:
        """Start from the first vectors (M, D) seen in training: k-means, and uniform counts. Once only."""
        if self._ready:
            return
        self._ready = bool(self.started)
        self._steps = int(self.steps)
        if self._ready:
            return
        if not torch.isfinite(x).all():
            return
        x = _gather(self.table.query(x))
        if len(x) == 0:
            return
        if self.start == "kmeans":
            if len(x) < self.size:
                warnings.warn(
                    f"k-means start: {len(x)} vectors for {self.size} codes; the rest begin near random ones",
                    stacklevel=2,
                )
            codes = kmeans(x, self.size)
            _broadcast(codes)
            self.table.write(codes)
        self.counts.fill_(len(x) / self.size)
        everything = torch.ones_like(self.counts, dtype=torch.bool)
        self.learn.reset(self.table.codes(), self.counts, everything)
        self.started.fill_(True)
        self._ready = True

    @torch.no_grad()
    def update(self, x: Tensor, index: Tensor, rate: Tensor) -> None:
        """Learn from the vectors (M, D) of this step and the codes (M,) they chose; all processes call it together.

        Args:
            x: (M, D) vectors; M may be 0.
            index: (M,) codes.
            rate: how far running means move, 1 - decay; 0 when this step must not count.
        """
        query = self.table.query(x)
        counts = torch.bincount(index, minlength=self.size).to(query.dtype)
        if self.learn.moves:
            sums = query.new_zeros(self.size, query.shape[1]).index_add_(0, index, query)
            if _several():
                both = torch.cat([counts[:, None], sums], 1)
                dist.all_reduce(both)
                counts, sums = both[:, 0], both[:, 1:]
            self.counts.lerp_(counts, rate)
            self.learn.update(self.table, self.counts, sums, rate)
        else:
            if _several():
                dist.all_reduce(counts)
            self.counts.lerp_(counts, rate)
        self._steps += 1
        self.steps += 1
        if self.revive.every and self._steps % self.revive.every == 0:
            self._revive(query, rate)

    def _revive(self, query: Tensor, rate: Tensor) -> None:
        query = _gather(query)
        if len(query) == 0:
            return
        codes, placed = self.revive.propose(self.table.codes(), self.counts, query)
        placed = placed & (rate > 0)
        codes = torch.where(placed[:, None], codes, self.table.codes())
        if _several():
            _broadcast(codes)
            _broadcast(placed)
        self.table.write(codes)
        # a placed code starts with the uniform share, in every statistic
        self.counts.copy_(torch.where(placed, self.counts.mean(), self.counts))
        self.learn.reset(codes, self.counts, placed)

    @torch.no_grad()
    def metrics(self, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Usage (share of codes in use) and perplexity, of given codes (M,) or, if None, of about the last 100 steps."""
        counts = self.counts if index is None else torch.bincount(index, minlength=self.size).float()
        least = 0.3 * (1 - self.decay) if index is None else 0.5  # a running count of 1, a hundred steps later
        p = counts / counts.sum().clamp_min(1e-12)
        return (counts > least).float().mean(), torch.special.entr(p).sum().exp()

    def extra_repr(self) -> str:
        return f"dim={self.dim}, size={self.size}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = False


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _broadcast(x: Tensor) -> None:
    if _several():
        dist.broadcast(x, 0)


def _gather(x: Tensor) -> Tensor:
    """Vectors (M, d) of all processes, in one order everywhere; M may differ between them."""
    if not _several():
        return x
    sizes = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(x)], device=x.device))
    most = max(int(s) for s in sizes)
    padded = F.pad(x, (0, 0, 0, most - len(x)))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(s)] for part, s in zip(parts, sizes, strict=True)])
