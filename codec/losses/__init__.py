"""Losses: reconstruction terms, adversarial losses, feature matching, gradient balancer."""

from codec.losses.adversarial import FeatureLoss, HingeLoss, LeastSquaresLoss, NormalizedFeatureLoss
from codec.losses.balance import GradientBalancer
from codec.losses.base import ReconstructionLoss, ReconstructionLosses
from codec.losses.spectral import ComplexSTFTLoss, LogMelLoss, SoundStreamMelLoss, STFTLoss
from codec.losses.waveform import SISDRLoss, WaveformLoss

__all__ = [
    "ComplexSTFTLoss",
    "FeatureLoss",
    "GradientBalancer",
    "HingeLoss",
    "LeastSquaresLoss",
    "LogMelLoss",
    "NormalizedFeatureLoss",
    "ReconstructionLoss",
    "ReconstructionLosses",
    "SISDRLoss",
    "STFTLoss",
    "SoundStreamMelLoss",
    "WaveformLoss",
]
