"""Pitch: a YIN tracker, the error of the fundamental frequency, and agreement on what is voiced."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from codec.metrics.base import Metric, Signal, Unscorable, check

LOWEST, HIGHEST = 60.0, 500.0  # hertz
HOP = 0.01  # seconds
THRESHOLD = 0.15  # of the normalised difference, below which a frame is periodic
QUIET = 1e-3  # of the loudest frame's energy, below which a frame is not voiced


def track(signal: Signal, sample_rate: int) -> NDArray[np.float64]:
    """Fundamental frequency in hertz every 10 ms, 0 where unvoiced, `(T,)`.

    YIN (de Cheveigne and Kawahara, JASA 111(4), 2002), steps 1 to 5, on windows of two periods of 60 Hz; differences
    come from one Fourier transform a frame.
    """
    longest, shortest = int(sample_rate / LOWEST), int(sample_rate / HIGHEST)
    window, hop = 2 * longest, round(HOP * sample_rate)
    padded = np.pad(signal.astype(np.float64), (window // 2, window // 2 + hop))
    frames = sliding_window_view(padded, window)[::hop]
    size = 1 << (window + longest - 1).bit_length()
    head = frames[:, :longest]
    cross = np.fft.irfft(np.fft.rfft(frames, size) * np.conj(np.fft.rfft(head, size)), size)[:, : longest + 1]
    sums = np.pad(np.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    energy = sums[:, longest:] - sums[:, : window + 1 - longest]  # of the longest samples from each lag on
    difference = np.maximum(energy[:, :1] + energy[:, : longest + 1] - 2 * cross, 0)
    lags = np.arange(1, longest + 1)
    mean = np.cumsum(difference[:, 1:], axis=1) / lags
    normal = np.ones_like(difference)
    normal[:, 1:] = difference[:, 1:] / np.maximum(mean, 1e-20)
    loud = energy[:, 0] > QUIET * max(energy[:, 0].max(), 1e-20)
    found = np.zeros(len(frames))
    for row in np.flatnonzero(loud):
        found[row] = _period(normal[row], shortest, longest)
    return np.divide(sample_rate, found, out=np.zeros_like(found), where=found > 0)


def _period(normal: NDArray[np.float64], shortest: int, longest: int) -> float:
    """The first dip below the threshold, between samples by a parabola; 0 if there is none."""
    below = np.flatnonzero(normal[shortest:longest] < THRESHOLD)
    if not below.size:
        return 0.0
    lag = shortest + int(below[0])
    while lag + 1 < longest and normal[lag + 1] < normal[lag]:
        lag += 1
    left, middle, right = normal[lag - 1 : lag + 2]
    bend = left - 2 * middle + right
    return lag + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def f0_error(estimate: Signal, reference: Signal, sample_rate: int) -> float:
    """Root mean square error of the fundamental in cents, over the frames that are voiced in both.

    Raises:
        Unscorable: fewer than ten frames are voiced in both.
    """
    check(estimate, reference, both=True)
    ours, theirs = track(estimate, sample_rate), track(reference, sample_rate)
    both = (ours > 0) & (theirs > 0)
    if both.sum() < 10:
        raise Unscorable("less than 0.1 s is voiced in both")
    return float(np.sqrt(np.mean((1200 * np.log2(ours[both] / theirs[both])) ** 2)))


def voicing_agreement(estimate: Signal, reference: Signal, sample_rate: int) -> float:
    """Share of frames that are voiced in both or in neither, 0 to 1.

    Raises:
        Unscorable: nothing in the reference is voiced.
    """
    check(estimate, reference)
    theirs = track(reference, sample_rate) > 0
    if not theirs.any():
        raise Unscorable("nothing in the original is voiced")
    return float(np.mean((track(estimate, sample_rate) > 0) == theirs))


class F0Error(Metric):
    """See `f0_error`."""

    name, title, unit = "f0_error", "F0 error", "cents"
    low, high, higher_is_better = 0.0, float("inf"), False
    source = "tracker: de Cheveigne and Kawahara 2002, JASA 111(4)"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return f0_error(estimate, reference, sample_rate)


class VoicingAgreement(Metric):
    """See `voicing_agreement`."""

    name, title = "voicing", "voicing agreement"
    low, high, higher_is_better = 0.0, 1.0, True
    source = "tracker: de Cheveigne and Kawahara 2002, JASA 111(4)"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return voicing_agreement(estimate, reference, sample_rate)
