"""What is wrong with a recording before any codec hears it: channels that cancel, offsets, clipping."""

import numpy as np

from codec.audio.reader import Audio

_CANCELLED = 1e-3  # power of the mix, of that of the channels
_AUDIBLE = 1e-7  # power, full scale at 1: quieter is silence anyway
_OFFSET = 0.02  # of full scale
_FULL = 1 - 2**-14
_RUN = 3  # samples at full scale in a row: a single one is only loud
_CLIPPED = 1e-3  # of all samples
_BEYOND = 2.0  # peak: decoders of lossy files overshoot a little


class Meter:
    """Measures a recording block by block.

    Args:
        channels: of the recording.
    """

    def __init__(self, channels: int) -> None:
        self._samples = self._clipped = 0
        self._sum, self._power = np.zeros(channels), np.zeros(channels)
        self._mix = self._peak = 0.0

    def push(self, audio: Audio) -> None:
        """Takes samples `(C, n)`."""
        if not audio.shape[1]:
            return
        self._samples += audio.shape[1]
        self._sum += audio.sum(axis=1, dtype=np.float64)
        self._power += np.square(audio).sum(axis=1, dtype=np.float64)
        self._mix += float(np.square(audio.mean(axis=0)).sum(dtype=np.float64))
        level = np.abs(audio)
        self._peak = max(self._peak, float(level.max()))
        full = level >= _FULL
        if full.any():
            runs = np.logical_and.reduce([full[:, i : full.shape[1] - _RUN + 1 + i] for i in range(_RUN)])
            self._clipped += int(runs.sum()) + (_RUN - 1) * int((runs[:, 1:] > runs[:, :-1]).sum())

    def warnings(self, *, mixed: bool) -> list[str]:
        """A sentence with its number for each thing that is wrong; `mixed` says that one channel is made of all."""
        if not self._samples:
            return []
        found = []
        power = float(self._power.mean()) / self._samples
        mix = self._mix / self._samples
        if mixed and len(self._power) > 1 and power > _AUDIBLE and mix < _CANCELLED * power:
            below = 10 * np.log10(power / max(mix, power * 1e-15))
            found.append(
                f"the channels cancel: their mix is {below:.0f} dB below them; --channels split keeps them apart"
            )
        offset = self._sum / self._samples
        worst = int(np.abs(offset).argmax())
        if abs(offset[worst]) > _OFFSET:
            found.append(f"channel {worst + 1} has an offset (DC) of {offset[worst]:.3f} of full scale")
        share = self._clipped / (self._samples * len(self._power))
        if share > _CLIPPED:
            found.append(f"{100 * share:.1f}% of the samples are clipped")
        if self._peak > _BEYOND:
            found.append(f"the peak is {20 * np.log10(self._peak):.1f} dB above full scale")
        return found
