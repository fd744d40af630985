"""Binary quantizers, a bit per channel: LFQ, BSQ, Bernoulli."""

from typing import Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.quantizers.base import Common, Losses
from codec.quantizers.scalar import Scalar

_GROUP = 8  # bits whose joint distribution the entropy loss looks at


class LFQ(Scalar):
    """Signs of channels (MAGVIT-v2, arXiv 2310.05737), with the entropy loss in groups of bits (WeTok).

    Losses: ``commit``, and ``entropy`` = E[H(p)] - H(E[p]), per bit, with p = softmax(2 y.c / temperature).

    Args:
        dim: latent width D.
        bits: bits per codebook; V = 2^bits.
        num_codebooks: number of codebooks K, each with its own channels.
        temperature: of the entropy loss.
        common: see `Common`.
    """

    loss_names: tuple[str, ...] = ("commit", "entropy")

    def __init__(
        self,
        dim: int,
        bits: int = 10,
        num_codebooks: int = 1,
        *,
        temperature: float = 0.01,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(dim, [2] * (bits * num_codebooks), num_codebooks, **common)
        self.bits, self.temperature = bits, temperature

    @property
    def size(self) -> float:
        """Absolute value of each channel."""
        return 1.0

    def _digits(self, y: Tensor) -> Tensor:
        return (y > 0).long()

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1) * self.size

    def _terms(self, y: Tensor, bounded: Tensor, values: Tensor) -> Losses:
        return {"commit": F.mse_loss(bounded, values.detach()), "entropy": self._entropy(bounded)}

    def _entropy(self, y: Tensor) -> Tensor:
        logits = 4 * y * self.size / self.temperature
        on, off = F.logsigmoid(logits), F.logsigmoid(-logits)
        # bits are independent given y, so the entropy of one vector is a sum over bits
        sure = -(on.exp() * on + off.exp() * off).sum(1).mean()
        spread = y.new_zeros(())
        for a, b in zip(on.split(_GROUP, 1), off.split(_GROUP, 1), strict=True):
            # the chance of a code is that of its first bits times that of the others: one matrix product for all codes
            low, high = (
                _chances(*halves) for halves in zip(a.tensor_split(2, 1), b.tensor_split(2, 1), strict=True)
            )
            p = low.t() @ high / len(y)
            spread = spread + torch.special.entr(p.clamp_min(1e-10)).sum()
        return (sure - spread) / self.width


def _chances(on: Tensor, off: Tensor) -> Tensor:
    """Chances (M, 2^n) of all patterns of n bits, from the logarithms of those of each bit (M, n)."""
    bits = on.shape[1]
    places = torch.arange(bits, device=on.device)
    ones = ((torch.arange(2**bits, device=on.device)[:, None] >> places) & 1).to(on.dtype)
    return (on @ ones.t() + off @ (1 - ones).t()).exp()


class BSQ(LFQ):
    """Signs on the unit sphere, +-1 / sqrt(bits), each codebook on its own sphere (BSQ, arXiv 2406.07548)."""

    @property
    def size(self) -> float:
        return self.bits**-0.5

    def _bound(self, y: Tensor) -> Tensor:
        return F.normalize(y.unflatten(1, (-1, self.bits)), dim=2).flatten(1)


class Bernoulli(Scalar):
    """Bits drawn with probability sigmoid(y) in training, thresholded at inference (arXiv 2304.04820).

    Args:
        dim: latent width D.
        bits: bits per codebook; V = 2^bits.
        num_codebooks: number of codebooks K, each with its own channels.
        common: see `Common`.
    """

    def __init__(
        self,
        dim: int,
        bits: int = 10,
        num_codebooks: int = 1,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(dim, [2] * (bits * num_codebooks), num_codebooks, **common)

    def _digits(self, y: Tensor) -> Tensor:
        return (y > 0).long()

    def _sample(self, y: Tensor) -> Tensor:
        return torch.bernoulli(y.sigmoid()).long()

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits - 1).float()

    def _estimate(self, y: Tensor, values: Tensor) -> Tensor:
        p = 2 * y.sigmoid()
        return values + (p - p.detach())
