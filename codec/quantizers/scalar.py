"""Scalar quantizers: every channel by itself, channels packed into codes by integer arithmetic."""

from collections.abc import Sequence
from math import prod
from typing import Unpack

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.linear import Linear
from codec.quantizers.additive import split
from codec.quantizers.base import Common, Losses, Quantizer, QuantizerOutput
from codec.quantizers.codebook.distributed import all_reduce, broadcast, gather
from codec.quantizers.codebook.gradient import straight_through
from codec.quantizers.usage import COUNTED, measure, name_metrics, usage_entropy


class Scalar(Quantizer):
    """Base of quantizers with a few levels per channel; K codebooks share the channels, missing ones are zeros.

    A subclass says which level each channel takes (``_digits``), what value that is (``_values``), and may add
    losses (``_terms``), move the input first (``_bound``) or take initial values from data (``_init_from``).

    Args:
        dim: latent width D.
        levels: levels L of each of the d channels; if d is not D, linear layers project in and out.
        num_codebooks: number of codebooks K that the channels are split into.
        common: see `Common`.

    Raises:
        ConfigError: levels below 2, or a codebook of more than 2^32 codes.
    """

    levels: Tensor
    radix: Tensor
    initialised: Tensor
    loss_names: tuple[str, ...] = ()

    def __init__(
        self,
        dim: int,
        levels: Sequence[int],
        num_codebooks: int = 1,
        **common: Unpack[Common],
    ) -> None:
        levels = [int(level) for level in levels]
        if not levels or min(levels) < 2:
            raise ConfigError(f"each channel needs at least 2 levels; they are {levels}")
        spans = split(len(levels), num_codebooks)
        sizes = [prod(levels[low:high]) for low, high in spans]
        if max(sizes) > 1 << 32:
            raise ConfigError(
                f"a codebook of {max(sizes)} codes is too large (at most 2^32): use more codebooks"
            )
        super().__init__(dim, sizes, **common)
        self.width, self.spans = len(levels), spans
        self.in_proj: nn.Module = Linear(dim, self.width) if self.width != dim else nn.Identity()
        self.out_proj: nn.Module = Linear(self.width, dim) if self.width != dim else nn.Identity()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        steps = [prod(levels[low:i]) for low, high in self.spans for i in range(low, high)]
        self.register_buffer("radix", torch.tensor(steps), persistent=False)
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        for k, size in enumerate(self.codebook_sizes):
            if size <= COUNTED:
                self.register_buffer(f"counts_{k}", torch.zeros(size), persistent=False)
        self._initialised: bool | None = None

    # ---- what a subclass says ----

    def _bound(self, y: Tensor) -> Tensor:
        """Channels (M, d) as they are quantized, with gradient."""
        return y

    def _digits(self, y: Tensor) -> Tensor:
        """Level (M, d) int64 of bounded channels (M, d)."""
        raise NotImplementedError

    def _sample(self, y: Tensor) -> Tensor:
        """Level (M, d) in training, where it may be drawn at random."""
        return self._digits(y)

    def _values(self, digits: Tensor) -> Tensor:
        """Value (M, d) of levels (M, d), with gradient to what the quantizer learns."""
        raise NotImplementedError

    def _estimate(self, y: Tensor, values: Tensor) -> Tensor:
        """The values, with the gradient to the bounded channels (M, d)."""
        return straight_through(y, values)

    def _terms(self, y: Tensor, bounded: Tensor, values: Tensor) -> Losses:
        """The losses ``loss_names`` of channels (M, d), before and after the bound, and their values (M, d)."""
        return {}

    def _init_from(self, y: Tensor) -> None:
        """Set what comes from data by the first channels (M, d) seen in training."""

    # ---- integers ----

    def pack(self, digits: Tensor) -> Tensor:
        """Codes (M, K) of levels (M, d): digit j counts the product of the levels before it in its codebook."""
        terms = digits * self.radix
        return torch.stack([terms[:, low:high].sum(1) for low, high in self.spans], 1)

    def unpack(self, codes: Tensor) -> Tensor:
        """Levels (M, d') of the first K' codebooks' codes (M, K')."""
        spans = self.spans[: codes.shape[1]]
        spread = torch.cat(
            [codes[:, k : k + 1].expand(-1, high - low) for k, (low, high) in enumerate(spans)], 1
        )
        width = spread.shape[1]
        return torch.div(spread, self.radix[:width], rounding_mode="floor") % self.levels[:width]

    # ---- the interface ----

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        batch, frames, _ = x.shape
        bad = (~torch.isfinite(x.detach())).sum()
        if self.training:
            all_reduce(bad)
        y = self.in_proj(x.reshape(-1, self.dim))
        initialise = self.training and not self._is_initialised()
        if initialise and not bad:
            self._initialise(gather(y.detach()))
        bounded = self._bound(y)
        choose = self._sample if self.training else self._digits
        digits = choose(bounded.detach().nan_to_num(0.0, 0.0, 0.0))
        values = self._values(digits)
        numbers, stages = self._draw(batch, num, whole=initialise)
        out = self._estimate(bounded, values)
        codes = self.pack(digits)[:, :stages].view(batch, frames, stages)
        out = out.view(batch, frames, self.width)
        kept, sent = keep(numbers, self.spans, x.device)
        out, codes = out * kept, codes.masked_fill(~sent[..., :stages], -1)
        quantized = self.out_proj(out.reshape(-1, self.width)).view(batch, frames, self.dim)
        metrics: Losses = {"nonfinite": bad} if self.training else {}
        metrics |= name_metrics([self._measure(k, codes[..., k].flatten()) for k in range(stages)])
        losses = (
            self._terms(y, bounded, values) if len(y) else dict.fromkeys(self.loss_names, y.new_zeros(()))
        )
        return QuantizerOutput(quantized, codes, losses, metrics, quantized)

    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        return self.pack(self._digits(self._bound(self.in_proj(x))))[:, :num]

    def _embed(self, codes: Tensor) -> Tensor:
        digits = self.unpack(codes)
        missing = digits.new_zeros(len(digits), self.width - digits.shape[1])
        values = self._values(torch.cat([digits, missing], 1))
        values[:, digits.shape[1] :] = 0
        return self.out_proj(values)

    @torch.no_grad()
    def _initialise(self, y: Tensor) -> None:
        if len(y):
            self._init_from(y)
            broadcast(*self.parameters())
            self.initialised.fill_(True)
            self._initialised = True

    @torch.no_grad()
    def mark_initialised(self) -> None:
        """Take the levels as they are: training goes on from them."""
        self.initialised.fill_(True)
        self._initialised = None

    def _is_initialised(self) -> bool:
        if self._initialised is None:
            self._initialised = bool(self.initialised)
        return self._initialised

    @torch.no_grad()
    def _measure(self, codebook: int, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Usage and entropy: of the last hundred steps or so in training, where the codebook is not too large."""
        size = self.codebook_sizes[codebook]
        if not self.training or size > COUNTED:
            return measure(codes, size)
        counts = torch.bincount(codes[codes >= 0], minlength=size).float()
        running = getattr(self, f"counts_{codebook}")
        all_reduce(counts)
        running.lerp_(counts, 0.01)
        return usage_entropy(running, 0.003)

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._initialised = None


def keep(
    numbers: Sequence[int], spans: Sequence[tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which channels (B, 1, d) and which codebooks (B, 1, K) samples with so many codebooks keep."""
    kept = torch.tensor(numbers, device=device)[:, None, None]
    owner = [k for k, (low, high) in enumerate(spans) for _ in range(low, high)]
    return torch.tensor(owner, device=device) < kept, torch.arange(len(spans), device=device) < kept
