"""Distances between spectra: multi-resolution mel and STFT distance, log-spectral distance."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from codec.metrics.base import Metric, Signal, check
from codec.nn.spectrogram import STFT, mel_filters

MEL_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
MEL_BANDS = (5, 10, 20, 40, 80, 160, 320)
MEL_FLOOR = 1e-5
STFT_SHAPES = ((512, 50, 240), (1024, 120, 600), (2048, 240, 1200))  # transform, hop, window
STFT_FLOOR = 1e-7
LSD_WINDOW = 0.032  # seconds
LSD_FLOOR = 1e-8  # of power: frames quieter than about -80 dB count as equal


def mel_distance(estimate: Signal, reference: Signal, sample_rate: int) -> float:
    """Mean over seven resolutions of `mean |log10 max(M s, 1e-5) - log10 max(M e, 1e-5)|`, M the mel magnitudes.

    Windows of 32 to 2048 samples with 5 to 320 bands (Slaney's scale and unit area), hop a quarter of the window:
    the resolutions of DAC (Kumar et al., arXiv 2306.06546), whose loss is their sum.

    Raises:
        Unscorable: the reference is silent.
    """
    check(estimate, reference)
    pair = _pair(estimate, reference)
    total = 0.0
    for window, bands in zip(MEL_WINDOWS, MEL_BANDS, strict=True):
        filters = _filters(sample_rate, window, bands)
        log = (_stft(window, window // 4, window)(pair).abs() @ filters).clamp_min(MEL_FLOOR).log10()
        total += (log[0] - log[1]).abs().mean().item()
    return total / len(MEL_WINDOWS)


def stft_distance(estimate: Signal, reference: Signal) -> float:
    """Mean over three resolutions of spectral convergence `|S - E| / |S|` plus `mean |ln S - ln E|`, S, E magnitudes.

    Yamamoto et al., Parallel WaveGAN, arXiv 1910.11480: transforms of 512, 1024 and 2048 samples.

    Raises:
        Unscorable: the reference is silent.
    """
    check(estimate, reference)
    pair = _pair(estimate, reference)
    total = 0.0
    for n_fft, hop, window in STFT_SHAPES:
        ours, target = _stft(n_fft, hop, window)(pair).abs().clamp_min(STFT_FLOOR)
        total += ((target - ours).norm() / target.norm()).item()
        total += (target.log() - ours.log()).abs().mean().item()
    return total / len(STFT_SHAPES)


def log_spectral_distance(estimate: Signal, reference: Signal, sample_rate: int) -> float:
    """Mean over frames of `sqrt(mean over bins of (10 log10 P_s / P_e)^2)` in dB; Hann windows of 32 ms, hop 8 ms.

    Gray and Markel, "Distance measures for speech processing", IEEE Trans. ASSP 24(5), 1976.

    Raises:
        Unscorable: the reference is silent.
    """
    check(estimate, reference)
    window = round(LSD_WINDOW * sample_rate)
    power = _stft(window, window // 4, window, True)(_pair(estimate, reference)).abs().square()
    decibel = 10 * power.clamp_min(LSD_FLOOR).log10()
    return (decibel[0] - decibel[1]).square().mean(-1).sqrt().mean().item()


@cache
def _stft(n_fft: int, hop: int, window: int, normalized: bool = False) -> STFT:
    return STFT(n_fft, hop, window, normalized=normalized)


@cache
def _filters(sample_rate: int, n_fft: int, bands: int) -> Tensor:
    return mel_filters(sample_rate, n_fft, bands)


def _pair(estimate: Signal, reference: Signal) -> Tensor:
    return torch.from_numpy(np.stack([estimate, reference]).astype(np.float32))


class MelDistance(Metric):
    """See `mel_distance`."""

    name, title = "mel_distance", "mel distance"
    low, high, higher_is_better = 0.0, float("inf"), False
    source = "resolutions of Kumar et al. 2023, arXiv 2306.06546"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return mel_distance(estimate, reference, sample_rate)


class STFTDistance(Metric):
    """See `stft_distance`."""

    name, title = "stft_distance", "STFT distance"
    low, high, higher_is_better = 0.0, float("inf"), False
    source = "Yamamoto et al. 2020, arXiv 1910.11480"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return stft_distance(estimate, reference)


class LogSpectralDistance(Metric):
    """See `log_spectral_distance`."""

    name, title, unit = "lsd", "log-spectral distance", "dB"
    low, high, higher_is_better = 0.0, float("inf"), False
    source = "Gray and Markel 1976"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return log_spectral_distance(estimate, reference, sample_rate)
