"""Metrics on samples: SI-SDR and SNR."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from codec.metrics.base import Metric, Signal, check

EPS = 1e-12  # relative: a perfect copy scores 120 dB, not infinity


def si_sdr(estimate: Signal, reference: Signal) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, `10 log10(|a s|^2 / |a s - e|^2)`, `a = <e, s> / <s, s>`.

    Le Roux et al., "SDR: half-baked or well done?", arXiv 1811.02508; means are not removed.

    Raises:
        Unscorable: one of the two is silent.
    """
    check(estimate, reference, both=True)
    s, e = reference.astype(np.float64), estimate.astype(np.float64)
    target = (e @ s) / (s @ s) * s
    return _ratio(_power(target), _power(target - e), _power(e))


def snr(estimate: Signal, reference: Signal) -> float:
    """Signal-to-noise ratio in dB, `10 log10(|s|^2 / |s - e|^2)`.

    Raises:
        Unscorable: the reference is silent.
    """
    check(estimate, reference)
    s, e = reference.astype(np.float64), estimate.astype(np.float64)
    return _ratio(_power(s), _power(s - e), _power(s))


def _power(signal: NDArray[np.float64]) -> float:
    return float(signal @ signal)


def _ratio(signal: float, noise: float, scale: float) -> float:
    floor = EPS * scale
    return 10 * math.log10(max(signal, floor) / max(noise, floor))


class SISDR(Metric):
    """See `si_sdr`."""

    name, title, unit = "si_sdr", "SI-SDR", "dB"
    low, high, higher_is_better = -120.0, 120.0, True
    source = "Le Roux et al. 2019, arXiv 1811.02508"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return si_sdr(estimate, reference)


class SNR(Metric):
    """See `snr`."""

    name, title, unit = "snr", "SNR", "dB"
    low, high, higher_is_better = -120.0, 120.0, True
    source = "definition"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return snr(estimate, reference)
