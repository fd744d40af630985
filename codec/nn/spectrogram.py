"""Short-time Fourier transform and mel filters that losses, discriminators and pictures share."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = Literal["none", "center", "same"]


class STFT(nn.Module):
    """Short-time Fourier transform in float32, frames before frequencies, for audio of any length.

    Args:
        n_fft: length of the transform, in samples.
        hop: samples between frames.
        window: length of the window; None is `n_fft`. A shorter one sits in the middle of the transform.
        shape: `hann` (periodic) or `rectangular`.
        padding: `none`: frames lie inside the audio; `center`: frame t is centred on sample `t * hop`, ends
            reflected; `same`: `(n_fft - hop) / 2` reflected samples at either end, as in HiFi-GAN's mel, and the
            rest of the last hop, so that there are `ceil(N / hop)` frames.
        normalized: divides by the window's Euclidean length.

    Raises:
        ValueError: the window is longer than the transform, or a length is not positive.
    """

    values: Tensor

    def __init__(
        self,
        n_fft: int,
        hop: int,
        window: int | None = None,
        *,
        shape: Literal["hann", "rectangular"] = "hann",
        padding: Padding = "center",
        normalized: bool = False,
    ) -> None:
        super().__init__()
        length = n_fft if window is None else window
        if hop < 1 or not 1 <= length <= n_fft:
            raise ValueError(f"hop {hop}, window {length} and transform {n_fft} do not fit together")
        if shape not in ("hann", "rectangular"):
            raise ValueError(f"the window {shape!r} is neither 'hann' nor 'rectangular'")
        if padding not in ("none", "center", "same"):
            raise ValueError(f"the padding {padding!r} is not one of 'none', 'center', 'same'")
        self.n_fft, self.hop = n_fft, hop
        excess = max(n_fft - hop, 0)
        self.ends = {
            "none": (0, 0),
            "center": (n_fft // 2, n_fft // 2),
            "same": (excess // 2, excess - excess // 2),
        }[padding]
        self.whole_hops = padding == "same"
        # two transforms with equal keys give equal spectra: callers share them
        self.key = (n_fft, hop, length, shape, padding, normalized)
        values = torch.hann_window(length) if shape == "hann" else torch.ones(length)
        if normalized:
            values = values / values.norm()
        left = (n_fft - length) // 2
        values = F.pad(values, (left, n_fft - length - left))
        self.register_buffer("values", values, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """`(..., N)` to complex `(..., T, n_fft // 2 + 1)`; audio shorter than a frame is filled with zeros."""
        with torch.autocast(audio.device.type, enabled=False):
            flat = audio.float().reshape(-1, 1, audio.shape[-1])
            left, right = self.ends
            # a reflection must be shorter than what it reflects, and there must be one whole frame
            least = max(left + 1, right + self.hop, self.n_fft - left - right)
            if flat.shape[-1] < least:
                flat = F.pad(flat, (0, least - flat.shape[-1]))
            if self.whole_hops:
                right += -flat.shape[-1] % self.hop
            if left or right:
                flat = F.pad(flat, (left, right), mode="reflect")
            frames = flat[:, 0].unfold(-1, self.n_fft, self.hop)
            spectrum = torch.fft.rfft(frames * self.values)
            return spectrum.reshape(*audio.shape[:-1], *spectrum.shape[-2:])


def decibels(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """Spectrogram `(..., n_fft // 2 + 1, T)` of audio `(..., N)` in dB of a full-scale sine, -100 at least."""
    stft = STFT(n_fft, hop).to(audio.device)
    magnitude = stft(audio).abs() * 2 / stft.values.sum()
    return 20 * magnitude.clamp_min(1e-5).log10().mT


def _slaney_mel(hertz: float) -> float:
    """Linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox, 1998)."""
    return 3 * hertz / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000, 6.4)


def _slaney_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, 200 * mel / 3, 1000 * 6.4 ** ((mel - 15) / 27))


# from hertz to mel and back; HTK's formula is O'Shaughnessy's (Speech Communication, 1987)
_SCALES = {
    "slaney": (_slaney_mel, _slaney_hertz),
    "htk": (lambda hertz: 2595 * math.log10(1 + hertz / 700), lambda mel: 700 * (10 ** (mel / 2595) - 1)),
}


def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    *,
    low: float = 0.0,
    high: float | None = None,
    scale: Literal["slaney", "htk"] = "slaney",
) -> Tensor:
    """Triangular mel filters, `(n_fft // 2 + 1, n_mels)`.

    Args:
        sample_rate: Hz.
        n_fft: length of the transform.
        n_mels: number of filters.
        low: lower edge in Hz.
        high: upper edge in Hz; None is half the sample rate.
        scale: `slaney` is librosa's default (mel scale and unit area); `htk` is torchaudio's (unit height).

    Raises:
        ValueError: the scale is unknown.
    """
    if scale not in ("slaney", "htk"):
        raise ValueError(f"the mel scale {scale!r} is neither 'slaney' nor 'htk'")
    to_mel, to_hertz = _SCALES[scale]
    ends = to_mel(low), to_mel(sample_rate / 2 if high is None else high)
    edges = to_hertz(torch.linspace(*ends, n_mels + 2, dtype=torch.float64))
    lower, middle, upper = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    filters = torch.minimum((bins - lower) / (middle - lower), (upper - bins) / (upper - middle)).clamp_min(0)
    if scale == "slaney":
        filters *= 2 / (upper - lower)
    return filters.float()
