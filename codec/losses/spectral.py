"""Reconstruction losses in the time-frequency plane: mel, magnitude and complex spectra."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from codec.losses.base import AudioPair, ReconstructionLoss
from codec.nn.spectrogram import STFT, Padding, mel_filters


class LogMelLoss(ReconstructionLoss):
    """Mean absolute difference of log mel spectrograms, summed over resolutions; one term, `mel`.

    HiFi-GAN's form (arXiv 2010.05646) is the default; DAC's (arXiv 2306.06546) has windows of 32 to 2048
    samples with 5 to 320 mels, `base` 10 and `padding` center; that of Vocos (arXiv 2306.00814) has
    `scale` htk, 100 mels, floor 1e-7 and `padding` center.

    Args:
        sample_rate: Hz.
        windows: window of each resolution, in samples.
        n_mels: mel bands of each resolution.
        hops: samples between frames; None is a quarter of the window.
        n_ffts: lengths of the transforms; None is the window.
        low: lower edge of the mels in Hz.
        high: upper edge; None is half the sample rate.
        floor: values are clamped to it before the logarithm.
        base: of the logarithm.
        scale: shape of the filters, see `codec.nn.spectrogram.mel_filters`.
        padding: of the ends, see `codec.nn.spectrogram.STFT`.

    Raises:
        ValueError: the lists differ in length, or the base or scale is unknown.
    """

    names = ("mel",)

    def __init__(
        self,
        sample_rate: int,
        *,
        windows: Sequence[int] = (1024,),
        n_mels: Sequence[int] = (80,),
        hops: Sequence[int] | None = None,
        n_ffts: Sequence[int] | None = None,
        low: float = 0.0,
        high: float | None = None,
        floor: float = 1e-5,
        base: Literal["e", "10"] = "e",
        scale: Literal["slaney", "htk"] = "slaney",
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        hops = [max(1, window // 4) for window in windows] if hops is None else hops
        n_ffts = windows if n_ffts is None else n_ffts
        if str(base) not in ("e", "10"):
            raise ValueError(f"the base {base!r} is neither 'e' nor '10'")
        self.floor = floor
        self.factor = math.log10(math.e) if str(base) == "10" else 1.0
        self.mels = nn.ModuleList(
            _Mel(STFT(n_fft, hop, window, padding=padding), sample_rate, mels, low, high, scale)
            for window, hop, n_fft, mels in zip(windows, hops, n_ffts, n_mels, strict=True)
        )

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Term `mel`."""
        total = pair.estimate.new_zeros(())
        for mel in self.mels:
            estimate, target = mel(pair)
            total = total + _l1(estimate.clamp(min=self.floor).log(), target.clamp(min=self.floor).log())
        return {"mel": self.factor * total}


class SoundStreamMelLoss(ReconstructionLoss):
    """Multi-scale mel loss of SoundStream (Zeghidour et al. 2021, arXiv 2107.03312); one term, `mel`.

    For each window s: mean absolute difference of the mels, plus alpha_s times the mean over frames of the
    root mean square difference of their logs. Mels are magnitudes of transforms with a normalised window, so
    that scales compare; transforms shorter than `least_fft` are lengthened, or filters would be empty.

    Args:
        sample_rate: Hz.
        windows: s, in samples; the hop is a quarter.
        n_mels: mel bands at every scale.
        alpha: `sqrt` is SoundStream's sqrt(s / 2), `one` EnCodec's 1 (arXiv 2210.13438).
        average: divide by the number of scales, as EnCodec does.
        low: lower edge of the mels in Hz.
        least_fft: least length of a transform.
        floor: added before the logarithm.

    Raises:
        ValueError: alpha is unknown.
    """

    names = ("mel",)

    def __init__(
        self,
        sample_rate: int,
        *,
        windows: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        n_mels: int = 64,
        alpha: Literal["sqrt", "one"] = "sqrt",
        average: bool = False,
        low: float = 0.0,
        least_fft: int = 512,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        if alpha not in ("sqrt", "one"):
            raise ValueError(f"alpha {alpha!r} is neither 'sqrt' nor 'one'")
        self.floor = floor
        self.scale = 1 / len(windows) if average else 1.0
        self.alphas = [(window / 2) ** 0.5 if alpha == "sqrt" else 1.0 for window in windows]
        self.mels = nn.ModuleList(
            _Mel(
                STFT(max(window, least_fft), max(1, window // 4), window, normalized=True),
                sample_rate,
                n_mels,
                low,
                None,
                "htk",
            )
            for window in windows
        )

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Term `mel`."""
        total = pair.estimate.new_zeros(())
        for mel, alpha in zip(self.mels, self.alphas, strict=True):
            estimate, target = mel(pair)
            logs = (estimate + self.floor).log() - (target + self.floor).log()
            rms = torch.linalg.vector_norm(logs, dim=-1).mean() / logs.shape[-1] ** 0.5
            total = total + _l1(estimate, target) + alpha * rms
        return {"mel": self.scale * total}


class STFTLoss(ReconstructionLoss):
    """Multi-resolution magnitude loss of Parallel WaveGAN (Yamamoto et al. 2020, arXiv 1910.11480).

    Two terms, each the mean over resolutions: `sc`, the spectral convergence, and `log_mag`, the mean absolute
    difference of log magnitudes.

    Args:
        n_ffts: lengths of the transforms.
        hops: samples between frames.
        windows: lengths of the windows.
        floor: least power.

    Raises:
        ValueError: the lists differ in length.
    """

    names = ("sc", "log_mag")

    def __init__(
        self,
        *,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hops: Sequence[int] = (120, 240, 50),
        windows: Sequence[int] = (600, 1200, 240),
        floor: float = 1e-8,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.stfts = nn.ModuleList(STFT(*shape) for shape in zip(n_ffts, hops, windows, strict=True))

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Terms `sc` and `log_mag`."""
        convergence, log_magnitude = [], []
        for stft in self.stfts:
            assert isinstance(stft, STFT)
            estimate, target = (_power(x).clamp(min=self.floor).sqrt() for x in pair.spectra(stft))
            norm = torch.linalg.vector_norm
            convergence.append(norm(target - estimate) / norm(target))
            log_magnitude.append(_l1(estimate.log(), target.log()))
        return {"sc": torch.stack(convergence).mean(), "log_mag": torch.stack(log_magnitude).mean()}


class ComplexSTFTLoss(ReconstructionLoss):
    """Compressed complex spectra, phase included: for codecs that should match the waveform.

    The magnitude m of each bin becomes m^compression, its phase stays (Ephrat et al. 2018, arXiv 1804.03619;
    Braun and Tashev 2020, arXiv 2009.12286). Two terms, each the mean over resolutions: `complex`, the mean
    absolute difference of real and imaginary parts, and `mag`, that of the compressed magnitudes.

    Where no phase can be coded, the best answer to `complex` is silence, whatever `mag` asks for: a `band` takes those
    frequencies out of `complex`, and `mag` then has them alone.

    Args:
        sample_rate: Hz.
        windows: in samples; the hop is a quarter.
        compression: exponent; 1 compares the spectra as they are.
        floor: power below which bins are compressed no further.
        band: two frequencies in Hz: `complex` counts in full up to the first and fades linearly to nothing at the
            second; None counts all frequencies.

    Raises:
        ValueError: the frequencies of the band do not ascend.
    """

    names = ("complex", "mag")

    def __init__(
        self,
        sample_rate: int,
        *,
        windows: Sequence[int] = (2048, 1024, 512),
        compression: float = 0.3,
        floor: float = 1e-6,
        band: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.compression, self.floor = compression, floor
        self.stfts = nn.ModuleList(STFT(n, n // 4, normalized=True) for n in windows)
        for number, n in enumerate(windows):
            self.register_buffer(f"share_{number}", _fade(sample_rate, n, band), persistent=False)

    def compare(self, pair: AudioPair) -> dict[str, Tensor]:
        """Terms `complex` and `mag`."""
        parts, magnitudes = [], []
        for number, stft in enumerate(self.stfts):
            assert isinstance(stft, STFT)
            (estimate, m), (target, n) = (self._compress(x) for x in pair.spectra(stft))
            share = getattr(self, f"share_{number}")
            parts.append(_l1(estimate, target) if share is None else _l1(share * estimate, share * target))
            magnitudes.append(_l1(m, n))
        return {"complex": torch.stack(parts).mean(), "mag": torch.stack(magnitudes).mean()}

    def _compress(self, spectrum: Tensor) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts `(..., 2)` and magnitudes."""
        power = _power(spectrum) + self.floor
        shrink = power ** ((self.compression - 1) / 2)
        return torch.view_as_real(spectrum) * shrink.unsqueeze(-1), shrink * power.sqrt()


def _fade(sample_rate: int, n_fft: int, band: Sequence[float] | None) -> Tensor | None:
    """Weight `(n_fft / 2 + 1, 1)` of each bin: 1 up to the first frequency, 0 from the second on."""
    if band is None:
        return None
    full, none = band
    if not 0 <= full < none:
        raise ValueError(f"the frequencies of a band ascend from 0, unlike {full:g} and {none:g}")
    frequencies = torch.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    return ((none - frequencies) / (none - full)).clamp(0, 1)[:, None]


class _Mel(nn.Module):
    """Mel spectrograms `(B, C, T, M)` of a pair."""

    filters: Tensor

    def __init__(
        self,
        stft: STFT,
        sample_rate: int,
        n_mels: int,
        low: float,
        high: float | None,
        scale: Literal["slaney", "htk"],
    ) -> None:
        super().__init__()
        self.stft = stft
        filters = mel_filters(sample_rate, stft.n_fft, n_mels, low=low, high=high, scale=scale)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, pair: AudioPair) -> tuple[Tensor, Tensor]:
        estimate, target = pair.spectra(self.stft)
        # without the small number, silence would have no slope
        return (_power(estimate) + 1e-9).sqrt() @ self.filters, (_power(target) + 1e-9).sqrt() @ self.filters


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _l1(estimate: Tensor, target: Tensor) -> Tensor:
    return (estimate - target).abs().mean()
