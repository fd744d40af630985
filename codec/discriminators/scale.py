"""Multi-scale discriminator: the waveform at several sample rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.discriminators.base import ConvStack, Discriminator, DiscriminatorOutput, normed

# channels (in widths), kernel, stride, groups of each layer, as in HiFi-GAN
LAYERS = (
    (1, 15, 1, 1),
    (1, 41, 2, 4),
    (2, 41, 2, 16),
    (4, 41, 4, 16),
    (8, 41, 4, 16),
    (8, 41, 1, 16),
    (8, 5, 1, 1),
)


class MultiScaleDiscriminator(Discriminator):
    """Multi-scale discriminator of HiFi-GAN (arXiv 2010.05646), after MelGAN (arXiv 1910.06711).

    The first stack takes the audio as it is, under a spectral norm; each further one takes it at half the
    rate of the one before, under a weight norm.

    Args:
        scales: number of stacks.
        channels: channels of the audio.
        width: channels of the first layer; the others have 1, 2, 4 and 8 times as many.
    """

    def __init__(self, scales: int = 3, *, channels: int = 1, width: int = 128) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(_stack(channels, width, spectral=i == 0) for i in range(scales))

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Audio `(B, C, N)`; logits are `(B, 1, L)` with L about N / 64 at the first scale."""
        logits, features = [], []
        for i, stack in enumerate(self.stacks):
            if i:
                audio = F.avg_pool1d(audio, kernel_size=4, stride=2, padding=2)
            logit, layers = stack(audio)
            logits.append(logit)
            features.append(layers)
        return DiscriminatorOutput(logits, features)


def _stack(channels: int, width: int, spectral: bool) -> ConvStack:
    convs = []
    size = channels
    norm = "spectral" if spectral else "weight"
    for times, kernel, stride, groups in LAYERS:
        # narrow variants: as many groups as still divide the channels
        groups = math.gcd(groups, size, times * width)
        conv = _GroupedConv1d(size, times * width, kernel, stride, padding=kernel // 2, groups=groups)
        convs.append(normed(conv, norm))  # type: ignore[arg-type]
        size = times * width
    post = normed(nn.Conv1d(size, 1, 3, padding=1), norm)  # type: ignore[arg-type]
    return ConvStack(convs, post, slope=0.1, logit_feature=True)


class _GroupedConv1d(nn.Conv1d):
    """A convolution that on CPUs computes its groups one by one, channels last in memory.

    oneDNN (torch 2.11) is up to three times slower at few channels to a group otherwise. What it returns keeps
    channels last, so that the next such layer rearranges nothing.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.groups == 1 or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        x = _last(input)
        kernels = _last(weight).chunk(self.groups)
        biases = [None] * self.groups if bias is None else bias.chunk(self.groups)
        padding = (0, int(self.padding[0]))
        parts = [
            F.conv2d(x, kernel, some, (1, self.stride[0]), padding)
            for x, kernel, some in zip(x.chunk(self.groups, dim=1), kernels, biases, strict=True)
        ]
        return torch.cat(parts, dim=1).squeeze(2)


def _last(x: Tensor) -> Tensor:
    """`(B, C, N)` as `(B, C, 1, N)` with channels last in memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2).unsqueeze(2)
