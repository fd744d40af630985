"""The inverse short-time Fourier transform as a layer: frames of spectra to samples, exact in any chunking."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.nn.conv import CausalConvTranspose1d, fixed
from codec.nn.layer import Layer, Span
from codec.nn.padded import PaddedConvTranspose1d
from codec.nn.state import StreamState


class InverseSTFT(Layer):
    """Overlapping inverse transforms with a Hann window, divided by the sum of the squared windows.

    The window of frame t is centred on the middle of its `hop` samples, as Vocos's padding "same". The sum of the
    windows is carried along, so that the ends of a signal, where fewer windows overlap, are as loud as the rest.

    Args:
        window: samples of the transform, at least two hops.
        hop: samples between frames.
        channels: audio channels C.
        causal: give out `hop` samples a frame, which lag by `delay`; else hold back what later frames add to.

    Raises:
        ConfigError: the window is shorter than two hops, or has no middle in common with the hop.
    """

    def __init__(self, window: int, hop: int, *, channels: int = 1, causal: bool = False) -> None:
        super().__init__()
        if window < 2 * hop or (window - hop) % 2:
            raise ConfigError(
                f"the window of {window} samples must be at least twice the hop of {hop}, and differ from it evenly"
            )
        self.bins = window // 2 + 1
        self.channels = channels
        self.delay = (window - hop) // 2 if causal else 0
        hann = torch.hann_window(window, dtype=torch.float64)
        waves = (_inverse_dft(window) * hann).float()
        # transposed convolutions with the windowed waves as taps: they stream and know their receptive field
        kind = CausalConvTranspose1d if causal else PaddedConvTranspose1d
        blocks = torch.block_diag(*[waves] * channels).unflatten(1, (channels, window))
        self.waves = fixed(kind(2 * self.bins * channels, channels, window, stride=hop, bias=False), blocks)
        self.windows = fixed(kind(1, 1, window, stride=hop, bias=False), hann.square().float().view(1, 1, -1))

    def forward(self, spectrum: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C * 2 * bins, T)`, a channel's real parts before its imaginary ones, to `(B, C, T * hop)`.

        A causal layer gives the samples of the signal from `-delay` on.
        """
        audio = self.waves(spectrum, state)
        total = self.windows(torch.ones_like(spectrum[:, :1]), state)
        # a sum below 0.25 is only found in what lies before the signal
        return audio / total.clamp_min(0.2)

    def span(self, first: float, last: float) -> Span:
        """The frames that samples `first` to `last` depend on."""
        return self.waves.span(first, last)


def _inverse_dft(window: int) -> Tensor:
    """Waves `(2 * bins, window)` of the inverse real DFT: real parts, then imaginary parts."""
    n = torch.arange(window, dtype=torch.float64)
    k = torch.arange(window // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * k[:, None] * n[None, :] / window
    weight = torch.full((window // 2 + 1, 1), 2.0 / window, dtype=torch.float64)
    weight[0] /= 2
    if window % 2 == 0:
        weight[-1] /= 2
    return torch.cat([weight * angle.cos(), -weight * angle.sin()])
