"""Base class of discriminators, their composition, and the stack of convolutions they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from codec.nn.start import normalize_convolutions


@dataclass(frozen=True, slots=True)
class DiscriminatorOutput:
    """Output of discriminators for a batch; one entry per sub-discriminator.

    Attributes:
        logits: `(B, ...)` each, high for audio that seems real.
        features: activations `(B, ...)` that feature matching compares, layer by layer.
    """

    logits: list[Tensor]
    features: list[list[Tensor]]


class Discriminator(nn.Module, ABC):
    """Tells real audio from decoded audio at one or more scales."""

    @abstractmethod
    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Logits and features of audio `(B, C, N)` of any length N >= 1."""

    def pair(self, real: Tensor, fake: Tensor) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """Outputs for two batches `(B, C, N)` of equal shape; normalised weights are computed once.

        Raises:
            ValueError: the shapes differ.
        """
        if real.shape != fake.shape:
            raise ValueError(
                f"real audio {tuple(real.shape)} and fake audio {tuple(fake.shape)} differ in shape"
            )
        with parametrize.cached():
            return self(real), self(fake)


class Discriminators(Discriminator):
    """Several discriminators as one: their lists, one after the other.

    Args:
        parts: label to discriminator; the order of the labels is the order of the output.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, parts: Mapping[str, Discriminator]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("there is no discriminator to compose")
        self.parts = nn.ModuleDict(parts)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Logits and features of audio `(B, C, N)`.

        Raises:
            TypeError: a part returned something else than one logit and one list of features per scale.
        """
        logits: list[Tensor] = []
        features: list[list[Tensor]] = []
        for label, part in self.parts.items():
            found = part(audio)
            if not isinstance(found, DiscriminatorOutput) or len(found.logits) != len(found.features):
                raise TypeError(
                    f"the discriminator {label!r} did not return one logit and one list per scale"
                )
            logits += found.logits
            features += found.features
        return DiscriminatorOutput(logits, features)

    def initialise(self, audio: Tensor) -> None:
        """Before training: set the scale of every layer by real audio `(B, C, N)`, see `normalize_convolutions`.

        With weights from random numbers alone the logits for soft speech are the biases, whether it is real or not, and
        hundreds of steps pass before a discriminator separates them.
        """
        normalize_convolutions(self, audio)


class ConvLayers(nn.Module):
    """Convolutions, each with a leaky ReLU; their activations are the features.

    Two-dimensional ones run with channels last in memory, which is the faster layout on CPUs and for
    16-bit numbers on GPUs.

    Args:
        convs: the layers.
        slope: of the leaky ReLU.
    """

    def __init__(self, convs: Sequence[nn.Module], *, slope: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.slope = slope

    def forward(self, x: Tensor) -> list[Tensor]:
        """`(B, C, ...)` to the activations of all layers."""
        features = []
        for conv in self.convs:
            if x.ndim == 4:
                x = _channels_last(x)
            x = F.leaky_relu(conv(x), self.slope, inplace=True)
            features.append(x)
        return features


class ConvStack(nn.Module):
    """Convolutions with leaky ReLU, then one that gives the logits.

    Args:
        convs: the layers; their activations are the features.
        post: from the last layer's channels to one.
        slope: of the leaky ReLU.
        logit_feature: the logits are a feature too, as in HiFi-GAN.
    """

    def __init__(
        self, convs: Sequence[nn.Module], post: nn.Module, *, slope: float, logit_feature: bool = False
    ) -> None:
        super().__init__()
        self.layers = ConvLayers(convs, slope=slope)
        self.post = post
        self.logit_feature = logit_feature

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`(B, C, ...)` to logits `(B, 1, ...)` and the features."""
        features = self.layers(x)
        logit = self.post(features[-1])
        return logit, [*features, logit] if self.logit_feature else features


def normed(conv: nn.Conv1d | nn.Conv2d, norm: Literal["weight", "spectral"] = "weight") -> nn.Module:
    """The convolution, its weights as they were initialised, under a weight or spectral norm."""
    if norm == "spectral":
        return parametrizations.spectral_norm(conv)
    if isinstance(conv, nn.Conv2d):
        conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parametrize.register_parametrization(conv, "weight", _WeightNorm(), unsafe=True)
        return conv
    return parametrizations.weight_norm(conv)


class _WeightNorm(nn.Module):
    """`parametrizations.weight_norm` for two-dimensional convolutions with channels last.

    The original gives weights in the default layout, and each call of a convolution then rearranges them: a
    third of the time of a multi-period discriminator with small batches.
    """

    def forward(self, gain: Tensor, direction: Tensor) -> Tensor:
        rows = direction.permute(0, 2, 3, 1).contiguous()
        return torch._weight_norm(rows, gain, 0).permute(0, 3, 1, 2)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return torch.norm_except_dim(weight, 2, 0), weight


def level(audio: Tensor) -> Tensor:
    """Audio `(B, C, N)` without its mean and with its peak at 0.8, per clip and channel, as in DAC.

    A peak under -60 dB is not raised further: silence would turn into a gradient without bound.
    """
    audio = audio.float()
    audio = audio - audio.mean(dim=-1, keepdim=True)
    return 0.8 * audio / audio.abs().amax(dim=-1, keepdim=True).clamp(min=1e-3)


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        # both layouts are the same here; only the strides tell the convolution which one is meant
        return x.squeeze(1).contiguous().unsqueeze(-1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)
