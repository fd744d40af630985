"""Sound faded out where frames are lost and in again after them, without clicks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

FADE_OUT, FADE_IN = 0.06, 0.02  # seconds


class Fade:
    """Gains of a batch of streams: down to silence within a gap, and up to 1 behind it.

    Args:
        batch_size: streams B.
        sample_rate: of the sound, in Hz.
        device: where the sound is.
    """

    def __init__(self, batch_size: int, sample_rate: int, device: torch.device) -> None:
        self._steps = -1 / (FADE_OUT * sample_rate), 1 / (FADE_IN * sample_rate)
        self._gain = torch.ones(batch_size, dtype=torch.float64, device=device)
        # each (2, B): samples from the next one to be heard to the first that is lost and the first after them
        self._gaps: list[Tensor] = []

    def lose(self, first: int, after: int, rows: Tensor, fresh: Tensor) -> None:
        """Note a gap in the streams `rows` `(B,)`.

        Args:
            first: samples from the next one to be heard to the first that is lost.
            after: the same to the first that is there again.
            rows: bool, streams that have the gap.
            fresh: bool, streams that have not begun: there is nothing to fade out.
        """
        self._gain = self._gain.masked_fill(rows & fresh, 0.0)
        # what a stream that lags gives before its first sample is not there either
        begin = torch.where(fresh, 0, first)
        self._gaps.append(torch.stack([begin, torch.full_like(begin, after)]) * rows)

    def __call__(self, audio: Tensor, active: Tensor | None = None) -> Tensor:
        """The next samples `(B, C, n)`, faded; streams that are not active stand still."""
        length = audio.shape[-1]
        if not length or (not self._gaps and bool((self._gain == 1).all())):
            return audio
        now = torch.arange(length, device=audio.device)
        lost = torch.zeros(len(audio), length, dtype=torch.bool, device=audio.device)
        for first, after in self._gaps:
            lost |= (now >= first[:, None]) & (now < after[:, None])
        rows = range(len(audio)) if active is None else active.nonzero().flatten().tolist()
        gains = torch.ones(len(audio), length, dtype=torch.float64, device=audio.device)
        self._gain = self._gain.clone()  # it may come from inference mode, where nothing else may write
        for row in rows:
            gains[row] = self._ramp(row, lost[row])
        going = 1 if active is None else active.long()
        self._gaps = [gap for one in self._gaps if bool(((gap := one - length * going)[1] > 0).any())]
        return audio * gains[:, None].float()

    def _ramp(self, row: int, lost: Tensor) -> Tensor:
        """Gains `(n,)` of one stream, sample by sample."""
        parts = []
        for state, count in zip(*torch.unique_consecutive(lost, return_counts=True), strict=True):
            step = self._steps[0] if state else self._steps[1]
            along = torch.arange(1, int(count) + 1, dtype=torch.float64, device=lost.device)
            parts.append((self._gain[row] + step * along).clamp(0, 1))
            self._gain[row] = parts[-1][-1]
        return torch.cat(parts)

    def reset(self, rows: Tensor) -> None:
        """Forget the gaps of the streams where `rows` `(B,)` is True."""
        self._gain = self._gain.masked_fill(rows, 1.0)
        self._gaps = [gap.masked_fill(rows, 0) for gap in self._gaps]

    def clone(self) -> Fade:
        """An independent copy."""
        other = object.__new__(Fade)
        other.__dict__ = self.__dict__ | {
            "_gain": self._gain.clone(),
            "_gaps": [gap.clone() for gap in self._gaps],
        }
        return other

    def state_dict(self) -> dict[str, Tensor]:
        """Gains and gaps."""
        gaps = torch.stack(self._gaps) if self._gaps else self._gain.new_zeros(0, 2, len(self._gain)).long()
        return {"gain": self._gain.clone(), "gaps": gaps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave."""
        self._gain = state["gain"].to(self._gain, copy=True)
        self._gaps = list(state["gaps"].to(self._gain.device, copy=True))
