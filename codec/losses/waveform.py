"""Reconstruction losses sample by sample."""

from __future__ import annotations

from torch import Tensor

from codec.losses.base import AudioPair, ReconstructionLoss


class WaveformLoss(ReconstructionLoss):
    """Mean absolute (`power` 1) or squared (`power` 2) difference of the samples; one term, `wave`.

    Raises:
        ValueError: the power is neither 1 nor 2.
    """

    names = ("wave",)

    def __init__(self, *, power: int = 1) -> None:
        super().__init__()
        if power not in (1, 2):
            raise ValueError(f"the power must be 1 or 2, not {power}")
        self.power = power

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Term `wave`."""
        error = pair.estimate - pair.target
        return {"wave": (error.abs() if self.power == 1 else error.square()).mean()}


class SISDRLoss(ReconstructionLoss):
    """Negative scale-invariant signal to distortion ratio in dB (Le Roux et al. 2019, arXiv 1811.02508).

    Mean over clips and channels; one term, `si_sdr`.

    Args:
        floor: energy added to both sides of the ratio, so that silence and perfect estimates stay finite.
    """

    names = ("si_sdr",)

    def __init__(self, *, floor: float = 1e-8) -> None:
        super().__init__()
        self.floor = floor

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Term `si_sdr`."""
        estimate = pair.estimate - pair.estimate.mean(dim=-1, keepdim=True)
        target = pair.target - pair.target.mean(dim=-1, keepdim=True)
        energy = target.square().sum(dim=-1, keepdim=True) + self.floor
        wanted = (estimate * target).sum(dim=-1, keepdim=True) / energy * target
        signal = wanted.square().sum(dim=-1) + self.floor
        distortion = (estimate - wanted).square().sum(dim=-1) + self.floor
        return {"si_sdr": -10 * (signal / distortion).log10().mean()}
