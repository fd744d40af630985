"""Base class of reconstruction losses, and their composition that computes each spectrum once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.nn.spectrogram import STFT


class AudioPair:
    """An estimate and its target `(B, C, N)` in float32, and their spectra, each computed when first asked for.

    The target takes no gradient, so that nothing of it is kept for the backward pass.
    """

    def __init__(self, estimate: Tensor, target: Tensor) -> None:
        if estimate.shape != target.shape:
            raise ValueError(
                f"estimate {tuple(estimate.shape)} and target {tuple(target.shape)} differ in shape"
            )
        self.estimate = estimate.float()
        self.target = target.detach().float()
        self._spectra: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}

    def spectra(self, stft: STFT) -> tuple[Tensor, Tensor]:
        """Complex spectra `(B, C, T, F)` of estimate and target."""
        if stft.key not in self._spectra:
            self._spectra[stft.key] = stft(self.estimate), stft(self.target)
        return self._spectra[stft.key]


class ReconstructionLoss(nn.Module, ABC):
    """Distance of decoded audio from the original, as named, unweighted terms.

    Attributes:
        names: of the terms.
    """

    names: tuple[str, ...]

    def forward(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compare audio `(B, C, N)`; the terms are scalars in float32, whatever the precision around.

        Raises:
            ValueError: the shapes differ.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            return self.compare(AudioPair(estimate, target))

    @abstractmethod
    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Terms of one pair of batches; only `forward` and composites call this."""


class ReconstructionLosses(ReconstructionLoss):
    """Several losses as one, their spectra shared.

    A loss with one term is called by its label, a loss with several by label and term: `mel`, but `stft_sc`
    and `stft_log_mag`.

    Args:
        parts: label to loss.

    Raises:
        ConfigError: two terms have the same name, or a part is no reconstruction loss.
    """

    def __init__(self, parts: Mapping[str, ReconstructionLoss]) -> None:
        super().__init__()
        for label, part in parts.items():
            if not isinstance(part, ReconstructionLoss):
                raise ConfigError(f"{label!r} compares no decoded audio: it is no term of the reconstruction")
        self.parts = nn.ModuleDict(parts)
        names = [_label(label, term, part) for label, part in parts.items() for term in part.names]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ConfigError(f"two terms of the loss are called {', '.join(sorted(twice))}")
        self.names = tuple(names)

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Terms of all parts."""
        terms = {}
        for label, part in self.parts.items():
            assert isinstance(part, ReconstructionLoss)
            for term, value in part.compare(pair).items():
                terms[_label(label, term, part)] = value
        return terms


def _label(label: str, term: str, part: ReconstructionLoss) -> str:
    return label if len(part.names) == 1 else f"{label}_{term}"
