"""Adversarial losses and feature matching over the outputs of discriminators, computed in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from codec.discriminators.base import DiscriminatorOutput

Reduction = Literal["sum", "mean"]


class AdversarialLoss(nn.Module, ABC):
    """Losses of discriminators and generator.

    Args:
        reduction: over sub-discriminators, each of which counts the mean of its logits.

    Raises:
        ValueError: the reduction is unknown.
    """

    def __init__(self, reduction: Reduction) -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f"the reduction {reduction!r} is neither 'sum' nor 'mean'")
        self.reduction = reduction

    def discriminator_loss(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
        """Discriminator loss, a scalar; `fake` is of detached audio."""
        pairs = zip(real.logits, fake.logits, strict=True)
        return self._reduce([self.real(r.float()) + self.fake(f.float()) for r, f in pairs])

    def generator_loss(self, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        """Generator loss, term `adv`."""
        return {"adv": self._reduce([self.generator(logit.float()) for logit in fake.logits])}

    @abstractmethod
    def real(self, logit: Tensor) -> Tensor:
        """Loss of a discriminator on logits of real audio."""

    @abstractmethod
    def fake(self, logit: Tensor) -> Tensor:
        """Loss of a discriminator on logits of decoded audio."""

    @abstractmethod
    def generator(self, logit: Tensor) -> Tensor:
        """Loss of the generator on logits of decoded audio."""

    def _reduce(self, losses: Sequence[Tensor]) -> Tensor:
        total = torch.stack(list(losses)).sum()
        return total / len(losses) if self.reduction == "mean" else total


class LeastSquaresLoss(AdversarialLoss):
    """Least squares (Mao et al. 2017, arXiv 1611.04076): real towards 1, decoded towards 0.

    Args:
        reduction: over sub-discriminators; HiFi-GAN, HiFi-Codec and DAC take the sum.
    """

    def __init__(self, *, reduction: Reduction = "sum") -> None:
        super().__init__(reduction)

    def real(self, logit: Tensor) -> Tensor:
        """Mean of (1 - D)^2."""
        return (1 - logit).square().mean()

    def fake(self, logit: Tensor) -> Tensor:
        """Mean of D^2."""
        return logit.square().mean()

    def generator(self, logit: Tensor) -> Tensor:
        """Mean of (1 - D)^2."""
        return (1 - logit).square().mean()


class HingeLoss(AdversarialLoss):
    """Hinge loss (Lim and Ye 2017, arXiv 1705.02894), as SoundStream, EnCodec and Vocos use it.

    Args:
        reduction: over sub-discriminators; all three take the mean.
        saturate: the generator loss is 0 beyond a logit of 1, as published; False minimises -D without bound.
    """

    def __init__(self, *, reduction: Reduction = "mean", saturate: bool = True) -> None:
        super().__init__(reduction)
        self.saturate = saturate

    def real(self, logit: Tensor) -> Tensor:
        """Mean of max(0, 1 - D)."""
        return (1 - logit).relu().mean()

    def fake(self, logit: Tensor) -> Tensor:
        """Mean of max(0, 1 + D)."""
        return (1 + logit).relu().mean()

    def generator(self, logit: Tensor) -> Tensor:
        """Mean of max(0, 1 - D), or of -D."""
        return (1 - logit).relu().mean() if self.saturate else -logit.mean()


class FeatureLoss(nn.Module):
    """Feature matching (Larsen et al. 2016, arXiv 1512.09300): mean absolute differences of all layers.

    Args:
        factor: 2 in HiFi-GAN and HiFi-Codec, 1 in SoundStream, DAC and Vocos.
        reduction: over layers and sub-discriminators; SoundStream takes the mean, the others the sum.

    Raises:
        ValueError: the reduction is unknown.
    """

    def __init__(self, *, factor: float = 2.0, reduction: Reduction = "sum") -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f"the reduction {reduction!r} is neither 'sum' nor 'mean'")
        self.factor, self.reduction = factor, reduction

    def forward(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        """Term `fm`; `real` takes no gradient.

        Raises:
            ValueError: there are no features, or those of real and fake audio differ in number or shape.
        """
        distances = torch.stack([_distance(r, f) for r, f in _layers(real, fake)])
        return {"fm": self.factor * (distances.mean() if self.reduction == "mean" else distances.sum())}


class NormalizedFeatureLoss(nn.Module):
    """Feature matching relative to the layer's scale, mean over layers (EnCodec, arXiv 2210.13438).

    Each layer counts mean |real - fake| / mean |real|, so that no layer or discriminator dominates the sum.
    """

    def forward(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        """Term `fm`; `real` takes no gradient.

        Raises:
            ValueError: there are no features, or those of real and fake audio differ in number or shape.
        """
        ratios = []
        for r, f in _layers(real, fake):
            # a dead layer has no scale: it must not count without bound
            ratios.append(_distance(r, f) / r.abs().mean(dtype=torch.float32).clamp(min=1e-5))
        return {"fm": torch.stack(ratios).mean()}


def _layers(real: DiscriminatorOutput, fake: DiscriminatorOutput) -> list[tuple[Tensor, Tensor]]:
    shapes = [[[layer.shape for layer in layers] for layers in one.features] for one in (real, fake)]
    layers = [shape for layers in shapes[0] for shape in layers]
    if shapes[0] != shapes[1] or not layers or any(0 in shape for shape in layers):
        raise ValueError(
            f"feature matching needs equal features of real and fake audio, not {shapes[0]} and {shapes[1]}"
        )
    return [
        (r.detach(), f)
        for reals, fakes in zip(real.features, fake.features, strict=True)
        for r, f in zip(reals, fakes, strict=True)
    ]


def _distance(real: Tensor, fake: Tensor) -> Tensor:
    """Mean absolute difference, a scalar in float32; the difference itself stays in the features' own type."""
    distance: Tensor = _MeanAbsoluteError.apply(fake, real)
    return distance


class _MeanAbsoluteError(torch.autograd.Function):
    """Mean of |fake - real| whose gradient keeps the memory layout of `fake`.

    The gradient of `.abs().mean()` is made with the default layout. Where features have channels last, every
    step back from there mixes two layouts, and the generator's step takes twice as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, fake: Tensor, real: Tensor) -> Tensor:
        difference = fake - real
        ctx.save_for_backward(difference)
        return difference.abs().mean(dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference.sign().mul_(gradient / difference.numel()), None
