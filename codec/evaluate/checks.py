"""Sanity checks before any score: a system whose wrapper shifts, scales or cuts the sound is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from codec.evaluate.system import System
from codec.metrics.base import SILENCE, Signal
from codec.nn.spectrogram import STFT, mel_filters

LONGEST_DELAY = 0.1  # seconds that may be taken away
SURE = 0.5  # normalised correlation from which the waveform itself gives the delay
EXACT, ROUGH = 0.001, 0.006  # seconds: a delay that passes, found by the waveform or by its envelopes
LEVEL = 0.5  # dB that pass
MOST_GAIN = 6.0  # dB that may be taken away from a parametric system
STEP = 0.001  # seconds between frames of the envelopes


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the first clips show of a system, and what is done about it.

    Attributes:
        delay: samples that every decoded clip lags; taken away.
        level: dB that the clips come back louder, see `level_difference`; taken away from a parametric system.
        gain: dB that is added to every decoded clip.
        length: largest difference of length, in samples.
        refused: why the system is not scored; empty if it is.
    """

    delay: int = 0
    level: float = 0.0
    gain: float = 0.0
    length: int = 0
    refused: tuple[str, ...] = ()

    def apply(self, decoded: Signal, size: int) -> Signal:
        """A decoded clip with delay and gain taken away, cut or filled up to `size` samples."""
        shifted = decoded[self.delay :] if self.delay >= 0 else np.pad(decoded, (-self.delay, 0))
        fitted = np.pad(shifted[:size], (0, max(0, size - shifted.size)))
        return (fitted * 10 ** (self.gain / 20)).astype(np.float32)


Pairs = Sequence[tuple[Signal, Signal]]


def calibrate(system: System, pairs: Pairs, rate: int, reference: Pairs | None = None) -> Calibration:
    """Check a system on a few clips.

    Args:
        system: what made them.
        pairs: decoded and original signals, each `(N,)` of its own length.
        rate: of all of them, in hertz.
        reference: the same by `system.reference()`, whose level is checked.
    """
    refused = []
    difference = max((decoded.size - original.size for decoded, original in pairs), key=abs)
    if abs(difference) > round(system.frame * rate):
        refused.append(
            f"length: a decoded clip has {difference:+d} samples against its original (a wrong sample rate?)"
        )
    common = _audible(pairs)
    if not common:
        return Calibration(length=difference, refused=(*refused, "the decoded clips are silent"))
    delay, sure = estimate_delay(common, rate)
    seconds = abs(delay) / rate
    if not system.delayed and seconds > (EXACT if sure else ROUGH):
        refused.append(f"delay: decoded clips lag by {1000 * delay / rate:.1f} ms")
    elif seconds >= LONGEST_DELAY:
        refused.append(f"delay: no lag below {1000 * LONGEST_DELAY:.0f} ms fits")
    taken = delay if system.delayed else 0
    level, checked = (
        level_difference(
            [(Calibration(taken).apply(d, o.size), o) for d, o in part], parametric=system.parametric
        )
        for part in (common, common if reference is None else _audible(reference))
    )
    gain = 0.0
    if abs(checked) > LEVEL:
        if system.parametric and abs(level) <= MOST_GAIN:
            gain = -level
        else:
            refused.append(f"level: decoded clips are {checked:+.2f} dB against their originals")
    return Calibration(taken, level, gain, difference, tuple(refused))


def estimate_delay(pairs: Pairs, rate: int) -> tuple[int, bool]:
    """Samples by which the decoded signals lag, and whether the waveform gave it (else its envelopes did).

    Args:
        pairs: decoded and original, each pair of equal length `(N,)`.
        rate: in hertz.
    """
    most = round(LONGEST_DELAY * rate)
    total = np.zeros(2 * most + 1)
    energy = 0.0
    for decoded, original in pairs:
        total += _correlate(decoded[None], original[None], most)
        energy += float(np.sqrt(_product(decoded, decoded) * _product(original, original)))
    best = int(total.argmax())
    if total[best] >= SURE * energy:
        return best - most, True
    hop = round(STEP * rate)
    steps = round(LONGEST_DELAY / STEP)
    total = np.zeros(2 * steps + 1)
    for decoded, original in pairs:
        ours, theirs = _envelopes(decoded, rate, hop), _envelopes(original, rate, hop)
        total += _correlate(ours, theirs, steps)
    return (int(total.argmax()) - steps) * hop, False


def level_difference(pairs: Pairs, *, parametric: bool = False) -> float:
    """By how many dB the decoded signals `e` are louder than the originals `s`, beyond what coding explains.

    A decoder that gives the expected signal loses the energy of what it does not know: then `<e, e> = <s, e>`. One that
    restores the energy has `<e, e> = <s, s>`. Anything between is a codec's choice and counts as 0.

    Args:
        pairs: decoded and original, aligned, each pair of equal length `(N,)`.
        parametric: the waveform is not followed, so energies alone are compared.
    """
    ours = sum(_product(decoded, decoded) for decoded, _ in pairs)
    theirs = sum(_product(original, original) for _, original in pairs)
    shared = sum(_product(decoded, original) for decoded, original in pairs)
    energy = 10 * np.log10(ours / theirs)
    if parametric:
        return float(energy)
    expected = 20 * np.log10(ours / max(shared, 1e-9 * np.sqrt(ours * theirs)))
    return float(energy if energy > 0 else min(expected, 0.0))


def _audible(pairs: Pairs) -> list[tuple[Signal, Signal]]:
    """The pairs in which both parts sound, cut to equal length."""
    cut = map(_common, pairs)
    return [pair for pair in cut if min(np.abs(part).max(initial=0) for part in pair) > SILENCE]


def _common(pair: tuple[Signal, Signal]) -> tuple[Signal, Signal]:
    size = min(pair[0].size, pair[1].size)
    return pair[0][:size], pair[1][:size]


def _product(a: Signal, b: Signal) -> float:
    return float(a.astype(np.float64) @ b.astype(np.float64))


def _correlate(ours: Signal, theirs: Signal, most: int) -> np.ndarray:
    """Correlation `(2 most + 1,)` of rows `(R, T)` for lags of -most to most, summed over rows."""
    size = 1 << (ours.shape[1] + most).bit_length()
    spectrum = np.fft.rfft(ours.astype(np.float64), size) * np.conj(
        np.fft.rfft(theirs.astype(np.float64), size)
    )
    cross = np.fft.irfft(spectrum, size).sum(axis=0)
    return np.concatenate([cross[-most:], cross[: most + 1]])


def _mel(signal: Signal, rate: int, hop: int) -> np.ndarray:
    n_fft = 1 << round(0.02 * rate).bit_length()
    power = STFT(n_fft, hop)(torch.from_numpy(signal)[None]).abs().square()[0]
    return (power @ mel_filters(rate, n_fft, 24)).numpy()


def _envelopes(signal: Signal, rate: int, hop: int) -> np.ndarray:
    """Log energies `(24, T)` every millisecond, each band without its mean."""
    log = np.log10(np.maximum(_mel(signal, rate, hop), 1e-8)).T
    return log - log.mean(axis=1, keepdims=True)
