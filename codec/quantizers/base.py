"""The quantizer interface: latents in, codes out, and back."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor

from codec.errors import CodecError, ConfigError
from codec.nn.functional import without_autocast
from codec.nn.version import Changing
from codec.quantizers.codebook import Codebook
from codec.quantizers.codebook.distributed import several

Losses = dict[str, Tensor]

#: Every loss that a quantizer may give, and the weight it has beside a commitment of 0.25 where nobody says otherwise.
LOSS_WEIGHTS = {
    "commit": 0.25,
    "codebook": 1.0,
    "orthogonal": 1.0,
    "entropy": 0.01,
    "wasserstein": 0.1,
    "size": 0.001,
    "coherence": 0.01,
    "kl": 0.0001,
    "spread": 0.001,
    "range": 1.0,
}


@dataclass(frozen=True, slots=True)
class QuantizerOutput:
    """What a training or evaluation pass through a quantizer gives.

    Attributes:
        quantized: (B, D, T) float32, with a gradient to the latents.
        codes: (B, K, T) int64; -1 where quantizer dropout left a codebook out (in training only).
        losses: unweighted scalars, such as ``commit`` and ``codebook``.
        metrics: detached scalars, such as ``perplexity`` and ``usage`` (means) and ``usage/0`` (one codebook).
        first_stage: (B, D, T) what the first codebooks alone give, with the same gradient as if there were no others:
            the first stage of a residual quantizer, the semantic codebooks of a split one, else all codebooks. Semantic
            distillation uses it. It comes from the same pass, for a second one would update the codebooks twice, and
            decoding the codes afterwards would read tables that have moved.
    """

    quantized: Tensor
    codes: Tensor
    losses: Losses
    metrics: Losses
    first_stage: Tensor


class Common(TypedDict, total=False):
    """What all quantizers take beside their own settings, see `Quantizer`."""

    prefixes: Sequence[int] | None
    dropout: float


class Quantizer(Changing, ABC):
    """Base of all quantizers: it checks and lays out; ``_forward``, ``_search`` and ``_embed`` do the work.

    Args:
        dim: latent width D.
        codebook_sizes: number of codes of each codebook, in stream order.
        prefixes: legal values of ``num_codebooks``, ascending to K; None means from ``shortest`` to K by ``step``.
        dropout: probability that a sample of a training batch uses one of ``prefixes`` instead of all codebooks.
        shortest: least number of codebooks that decode.
        step: how many codebooks belong together.

    Raises:
        ConfigError: the dropout is out of range, or the prefixes do not ascend to K.
    """

    def __init__(
        self,
        dim: int,
        codebook_sizes: Sequence[int],
        *,
        prefixes: Sequence[int] | None = None,
        dropout: float = 0.0,
        shortest: int = 1,
        step: int = 1,
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ConfigError(f"quantizer dropout is a probability from 0 to 1, not {dropout}")
        full = len(codebook_sizes)
        legal = tuple(range(shortest, full + 1, step) if prefixes is None else map(int, prefixes))
        if not legal or list(legal) != sorted(set(legal)) or legal[0] < 1 or legal[-1] != full:
            raise ConfigError(f"prefixes must ascend to {full}, the number of codebooks; they are {legal}")
        self.dim, self.codebook_sizes = dim, tuple(codebook_sizes)
        self.prefixes, self.dropout = legal, dropout

    def forward(self, z: Tensor, *, num_codebooks: int | None = None) -> QuantizerOutput:
        """Quantize latents, with losses and a gradient to ``z``; in training mode the codebooks are updated.

        Args:
            z: (B, D, T) latents, any floating point type; the arithmetic is float32.
            num_codebooks: how many codebooks to use, one of ``prefixes``. None means all of them, or in training
                mode what quantizer dropout draws.

        Raises:
            CodecError: wrong shape or type, or NaN and infinite latents in eval mode.
        """
        self._check_latents(z)
        num = None if num_codebooks is None else self._check_num(num_codebooks)
        with exact_float32(z.device):
            x = z.float().transpose(1, 2)
            if not self.training:
                _refuse_nonfinite(z)
            out = self._forward(x, num)
        quantized, codes, first = (
            part.transpose(1, 2) for part in (out.quantized, out.codes, out.first_stage)
        )
        return replace(out, quantized=quantized, codes=codes, first_stage=first)

    @torch.no_grad()
    def encode(
        self, z: Tensor, *, num_codebooks: int | None = None, beam: int = 1, refine: int = 0
    ) -> Tensor:
        """Codes (B, K', T) int64 of latents (B, D, T).

        Args:
            z: (B, D, T) latents.
            num_codebooks: K', one of ``prefixes``; None means all.
            beam: partial code sequences kept per vector; 1 is the greedy search.
            refine: sweeps of coordinate descent after the search; they never raise the error.

        Raises:
            CodecError: wrong shape or type, or NaN and infinite latents.
        """
        self._check_latents(z)
        num = self.prefixes[-1] if num_codebooks is None else self._check_num(num_codebooks)
        if beam < 1 or refine < 0:
            raise CodecError(f"beam must be at least 1 and refine at least 0, not {beam} and {refine}")
        _refuse_nonfinite(z)
        with exact_float32(z.device):
            x = z.float().transpose(1, 2).reshape(-1, self.dim)
            codes = self._search(x, num, beam, refine)
        return codes.view(z.shape[0], z.shape[2], num).transpose(1, 2)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Latents (B, D, T) float32 of codes (B, K', T), where K' is one of ``prefixes``.

        Raises:
            CodecError: wrong shape or type, or a code out of range (named by codebook, frame and value).
        """
        self._check_codes(codes)
        batch, num, frames = codes.shape
        with exact_float32(codes.device):
            x = self._embed(codes.transpose(1, 2).reshape(-1, num).long())
        return x.view(batch, frames, self.dim).transpose(1, 2)

    def codebooks(self) -> Iterator[Codebook]:
        """The distinct codebooks in stream order; none of a quantizer that has no code vectors."""
        return (part for part in self.modules() if isinstance(part, Codebook))

    def load_tables(self, tables: Sequence[Tensor]) -> None:
        """Set the code vectors (V, d) of each distinct codebook, whatever they come from; training goes on from them.

        Raises:
            ConfigError: their number or a shape does not fit, or a table cannot be set.
        """
        codebooks = list(self.codebooks())
        if len(tables) != len(codebooks):
            raise ConfigError(f"{len(tables)} codebooks were given, but there are {len(codebooks)}")
        for number, (codebook, table) in enumerate(zip(codebooks, tables, strict=True)):
            try:
                codebook.load_table(table)
            except ConfigError as error:
                raise ConfigError(f"codebook {number} cannot be loaded: {error}") from None

    def mark_initialised(self) -> None:
        """Take everything that comes from the first data as it is: training goes on from there."""
        for codebook in self.codebooks():
            codebook.mark_initialised()

    @abstractmethod
    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        """What ``forward`` gives for latents (B, T, D) float32, in this layout: codes are (B, T, K')."""

    @abstractmethod
    def _search(self, x: Tensor, num: int, beam: int, refine: int) -> Tensor:
        """Codes (M, num) of vectors (M, D)."""

    @abstractmethod
    def _embed(self, codes: Tensor) -> Tensor:
        """Vectors (M, D) of codes (M, K')."""

    def _draw(self, batch: int, num: int | None, *, whole: bool = False) -> tuple[list[int], int]:
        """Codebooks of each sample and of the longest: ``num``, or all, or in training what quantizer dropout draws."""
        full = self.prefixes[-1] if num is None else num
        if num is not None or whole or not self.training or self.dropout == 0:
            return [full] * batch, full
        drop = (torch.rand(batch) < self.dropout).tolist()
        drawn = torch.randint(len(self.prefixes), (batch,)).tolist()
        if several():  # every process must reach every codebook, or their collective calls would not match
            drop[:1] = [False]
        numbers = [self.prefixes[i] if d else full for d, i in zip(drop, drawn, strict=True)]
        return numbers, max(numbers, default=full)

    def _check_latents(self, z: Tensor) -> None:
        if not z.is_floating_point():
            raise CodecError(f"latents must be floating point, not {z.dtype}")
        if z.ndim != 3 or z.shape[1] != self.dim:
            raise CodecError(f"latents must have the shape (batch, {self.dim}, frames), not {tuple(z.shape)}")

    def _check_num(self, num: int) -> int:
        if num not in self.prefixes:
            legal = ", ".join(map(str, self.prefixes))
            raise CodecError(f"num_codebooks is {num}, but this quantizer can use {legal}")
        return num

    def _check_codes(self, codes: Tensor) -> None:
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise CodecError(f"codes must be integers, not {codes.dtype}")
        if codes.ndim != 3:
            raise CodecError(
                f"codes must have the shape (batch, codebooks, frames), not {tuple(codes.shape)}"
            )
        self._check_num(codes.shape[1])
        if codes.numel() == 0:
            return
        low, high = codes.aminmax()
        if low >= 0 and high < min(self.codebook_sizes[: codes.shape[1]]):
            return
        sizes = torch.tensor(self.codebook_sizes[: codes.shape[1]], device=codes.device)[:, None]
        bad = (codes < 0) | (codes >= sizes)
        if bad.any():
            b, k, t = (int(i) for i in bad.nonzero()[0])
            raise CodecError(
                f"code {int(codes[b, k, t])} in codebook {k}, frame {t} (batch {b}) is out of range: "
                f"the codebook has codes 0 to {self.codebook_sizes[k] - 1}"
            )


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Full float32 arithmetic: no autocast, and no TF32 in matrix products on CUDA."""
    with without_autocast(device):
        precision = torch.get_float32_matmul_precision()
        if device.type != "cuda" or precision == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)


def _refuse_nonfinite(z: Tensor) -> None:
    good = torch.isfinite(z)
    if not good.all():
        b, _, t = (int(i) for i in (~good).nonzero()[0])
        raise CodecError(
            f"{int((~good).sum())} latent values are NaN or infinite, the first one in batch {b}, frame {t}"
        )
