"""Discriminators of the short-time spectrum: complex (EnCodec), magnitude (UnivNet, Vocos), in bands (DAC)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.discriminators.base import ConvLayers, ConvStack, Discriminator, DiscriminatorOutput, level, normed
from codec.nn.spectrogram import STFT


class MultiScaleSTFTDiscriminator(Discriminator):
    """Multi-scale complex spectrum discriminator of EnCodec (Défossez et al. 2022, arXiv 2210.13438).

    Args:
        windows: of the transforms, in samples; the hop is a quarter.
        channels: channels of the audio.
        width: channels of every layer.
        dilations: of the strided layers, along time.
    """

    def __init__(
        self,
        windows: Sequence[int] = (1024, 2048, 512),
        *,
        channels: int = 1,
        width: int = 32,
        dilations: Sequence[int] = (1, 2, 4),
    ) -> None:
        super().__init__()
        self.stfts = nn.ModuleList(STFT(n, n // 4, padding="none", normalized=True) for n in windows)
        self.stacks = nn.ModuleList(_complex_stack(2 * channels, width, dilations) for _ in windows)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Audio `(B, C, N)`; features are `(B, width, T, F)`, frames before frequencies."""
        results = [stack(_parts(stft(audio))) for stft, stack in zip(self.stfts, self.stacks, strict=True)]
        return _output(results)


def _complex_stack(channels: int, width: int, dilations: Sequence[int]) -> ConvStack:
    # the first layer has no weight norm, as published
    first = _FirstConv2d(channels, width, (3, 9), padding=(1, 4)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strided = [
        normed(nn.Conv2d(width, width, (3, 9), (1, 2), padding=(d, 4), dilation=(d, 1))) for d in dilations
    ]
    last = normed(nn.Conv2d(width, width, (3, 3), padding=(1, 1)))
    post = normed(nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))
    return ConvStack([first, *strided, last], post, slope=0.2)


class MultiResolutionDiscriminator(Discriminator):
    """Multi-resolution magnitude discriminator of UnivNet (Jang et al. 2021, arXiv 2106.07889), in the shape
    of Vocos (Siuzdak 2023, arXiv 2306.00814).

    Args:
        windows: of the transforms, in samples; the hop is a quarter.
        channels: channels of the audio.
        width: channels of every layer.
        shape: of the window; Vocos takes a rectangular one.
    """

    def __init__(
        self,
        windows: Sequence[int] = (1024, 2048, 512),
        *,
        channels: int = 1,
        width: int = 64,
        shape: Literal["rectangular", "hann"] = "rectangular",
    ) -> None:
        super().__init__()
        self.stfts = nn.ModuleList(STFT(n, n // 4, shape=shape) for n in windows)
        self.stacks = nn.ModuleList(_magnitude_stack(channels, width) for _ in windows)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Audio `(B, C, N)`; features are `(B, width, T', F')`, the logits the last of them."""
        results = [stack(stft(audio).abs()) for stft, stack in zip(self.stfts, self.stacks, strict=True)]
        return _output(results)


def _magnitude_stack(channels: int, width: int) -> ConvStack:
    # kernel and stride along (time, frequency)
    shapes = [((5, 7), (2, 2)), ((3, 5), (1, 2)), ((3, 5), (2, 2)), ((3, 3), (1, 2)), ((3, 3), (2, 2))]
    convs = []
    for (time, frequency), stride in shapes:
        conv = nn.Conv2d(channels, width, (time, frequency), stride, padding=(time // 2, frequency // 2))
        convs.append(normed(conv))
        channels = width
    return ConvStack(convs, normed(nn.Conv2d(width, 1, 3, padding=1)), slope=0.1, logit_feature=True)


class MultiBandSTFTDiscriminator(Discriminator):
    """Multi-band complex spectrum discriminator of DAC (Kumar et al. 2023, arXiv 2306.06546).

    Each band of each transform has its own stack; one last convolution sees the bands side by side.

    Args:
        windows: of the transforms, in samples; the hop is a quarter.
        bands: edges as shares of the spectrum.
        channels: channels of the audio.
        width: channels of every layer.
        normalize: level the audio first, as published.

    Raises:
        ValueError: a band is empty at some window.
    """

    def __init__(
        self,
        windows: Sequence[int] = (2048, 1024, 512),
        bands: Sequence[Sequence[float]] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0)),
        *,
        channels: int = 1,
        width: int = 32,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.scales = nn.ModuleList(_BandStacks(n, bands, 2 * channels, width) for n in windows)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Audio `(B, C, N)`; features are `(B, width, T, F)` of the lowest band first."""
        if self.normalize:
            audio = level(audio)
        return _output([scale(audio) for scale in self.scales])


class _BandStacks(nn.Module):
    def __init__(self, window: int, bands: Sequence[Sequence[float]], channels: int, width: int) -> None:
        super().__init__()
        self.stft = STFT(window, window // 4, padding="same")
        bins = window // 2 + 1
        self.edges = [(int(low * bins), int(high * bins)) for low, high in bands]
        if any(low >= high for low, high in self.edges):
            raise ValueError(f"a band of {list(bands)} is empty with a window of {window}")
        self.stacks = nn.ModuleList(_band_layers(channels, width) for _ in bands)
        self.post = normed(nn.Conv2d(width, 1, (3, 3), padding=(1, 1)))

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        spectrum = _parts(self.stft(audio))
        features: list[Tensor] = []
        ends: list[Tensor] = []
        for (low, high), stack in zip(self.edges, self.stacks, strict=True):
            layers = stack(spectrum[..., low:high])
            features += layers
            ends.append(layers[-1])
        return self.post(torch.cat(ends, dim=-1)), features


def _band_layers(channels: int, width: int) -> ConvLayers:
    strided = [normed(nn.Conv2d(width, width, (3, 9), (1, 2), padding=(1, 4))) for _ in range(3)]
    first = normed(_FirstConv2d(channels, width, (3, 9), padding=(1, 4)))
    last = normed(nn.Conv2d(width, width, (3, 3), padding=(1, 1)))
    return ConvLayers([first, *strided, last], slope=0.1)


class _FirstConv2d(nn.Conv2d):
    """A convolution of few channels without strides; where its input learns, on CPUs, the taps along the last axis
    become channels.

    The gradient of so few channels takes oneDNN (torch 2.11) twice as long otherwise.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not input.requires_grad or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        rows, columns = (int(side) for side in self.padding)
        wide = F.pad(input, (columns, columns)).permute(0, 2, 3, 1)
        taps = wide.unfold(2, self.kernel_size[1], 1).flatten(3).permute(0, 3, 1, 2)
        return F.conv2d(taps, weight.transpose(2, 3).flatten(1, 2).unsqueeze(3), bias, padding=(rows, 0))


def _parts(spectrum: Tensor) -> Tensor:
    """Complex `(B, C, T, F)` to real `(B, 2 C, T, F)`: all real parts, then all imaginary parts."""
    batch, channels, frames, bins = spectrum.shape
    # for one channel this is a view that already has channels last in memory
    return torch.view_as_real(spectrum).permute(0, 4, 1, 2, 3).reshape(batch, 2 * channels, frames, bins)


def _output(results: Sequence[tuple[Tensor, list[Tensor]]]) -> DiscriminatorOutput:
    return DiscriminatorOutput([logit for logit, _ in results], [layers for _, layers in results])
