"""Pitch, tracked by Praat: the error of the fundamental frequency, and agreement on what is voiced."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.metrics.base import Metric, Signal, Unscorable, check

# higher than Praat's own 0.01 and 0.35: on decoded speech they make octave errors three times rarer
OCTAVE_COST, OCTAVE_JUMP_COST = 0.05, 0.7


def track(signal: Signal, sample_rate: int) -> NDArray[np.float64]:
    """Fundamental frequency in hertz every 10 ms, 0 where unvoiced, `(T,)`; none of a signal shorter than 50 ms.

    The best path through candidates of the autocorrelation, 60 to 500 Hz (Boersma, Proceedings of the Institute of
    Phonetic Sciences 17, 1993).
    """
    from parselmouth import Sound

    if signal.size < 0.05 * sample_rate:  # three periods of the lowest pitch must fit
        return np.zeros(0)
    pitch = Sound(signal.astype(np.float64), sample_rate).to_pitch_ac(
        time_step=0.01,
        pitch_floor=60.0,
        pitch_ceiling=500.0,
        octave_cost=OCTAVE_COST,
        octave_jump_cost=OCTAVE_JUMP_COST,
    )
    frequency: NDArray[np.float64] = pitch.selected_array["frequency"]
    return frequency


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
    source = "tracker: Boersma 1993"
    packages = ("parselmouth",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return f0_error(estimate, reference, sample_rate)


class VoicingAgreement(Metric):
    """See `voicing_agreement`."""

    name, title = "voicing", "voicing agreement"
    low, high, higher_is_better = 0.0, 1.0, True
    source = "tracker: Boersma 1993"
    packages = ("parselmouth",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return voicing_agreement(estimate, reference, sample_rate)
