"""Discriminators: audio in, logits and features out, alone or composed."""

from codec.discriminators.base import Discriminator, DiscriminatorOutput, Discriminators
from codec.discriminators.period import MultiPeriodDiscriminator
from codec.discriminators.scale import MultiScaleDiscriminator
from codec.discriminators.stft import (
    MultiBandSTFTDiscriminator,
    MultiResolutionDiscriminator,
    MultiScaleSTFTDiscriminator,
)

__all__ = [
    "Discriminator",
    "DiscriminatorOutput",
    "Discriminators",
    "MultiBandSTFTDiscriminator",
    "MultiPeriodDiscriminator",
    "MultiResolutionDiscriminator",
    "MultiScaleDiscriminator",
    "MultiScaleSTFTDiscriminator",
]
