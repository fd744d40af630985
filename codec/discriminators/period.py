"""Multi-period discriminator: the waveform folded at several periods."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from codec.discriminators.base import ConvStack, Discriminator, DiscriminatorOutput, level, normed


class MultiPeriodDiscriminator(Discriminator):
    """Multi-period discriminator of HiFi-GAN (Kong et al. 2020, arXiv 2010.05646).

    One stack of strided convolutions for each period p sees the samples 0, p, 2p, ...; 1, p + 1, ... as p
    separate signals.

    Args:
        periods: in samples.
        channels: channels of the audio.
        width: channels of the first layer; the others have 4, 16, 32 and 32 times as many.
        normalize: level the audio first, as DAC does.
        logit_feature: the logits take part in feature matching, as in HiFi-GAN (but not in DAC).
        first_feature: first layer that takes part in it (Vocos leaves out layer 0).
    """

    def __init__(
        self,
        periods: Sequence[int] = (2, 3, 5, 7, 11),
        *,
        channels: int = 1,
        width: int = 32,
        normalize: bool = False,
        logit_feature: bool = True,
        first_feature: int = 0,
    ) -> None:
        super().__init__()
        self.periods = tuple(periods)
        self.normalize = normalize
        self.first_feature = first_feature
        self.stacks = nn.ModuleList(_stack(channels, width, logit_feature) for _ in self.periods)

    def forward(self, audio: Tensor) -> DiscriminatorOutput:
        """Audio `(B, C, N)`; logits are `(B, 1, p, L)` with L about N / (81 p)."""
        if self.normalize:
            audio = level(audio)
        logits, features = [], []
        for period, stack in zip(self.periods, self.stacks, strict=True):
            logit, layers = stack(fold(audio, period))
            logits.append(logit)
            features.append(layers[self.first_feature :])
        return DiscriminatorOutput(logits, features)


_SHORTEST = 4  # columns


def fold(audio: Tensor, period: int) -> Tensor:
    """`(B, C, N)` to `(B, C, period, max(4, ceil(N / period)))`; the end is filled by reflection, then with zeros.

    Time comes last: convolutions along the last axis are the faster ones on CPUs.
    """
    batch, channels, length = audio.shape
    missing = -length % period
    if missing:
        # the reflection of a clip shorter than what is missing does not exist
        audio = F.pad(audio, (0, missing), mode="reflect" if missing < length else "constant")
    # with fewer columns oneDNN 3.10 (torch 2.11) reads beyond the end of a single channel and gives what it finds there
    audio = F.pad(audio, (0, max(0, _SHORTEST * period - audio.shape[2])))
    return audio.view(batch, channels, -1, period).transpose(2, 3)


def _stack(channels: int, width: int, logit_feature: bool) -> ConvStack:
    sizes = [channels, width, 4 * width, 16 * width, 32 * width, 32 * width]
    strides = [3, 3, 3, 3, 1]
    convs = [
        normed(nn.Conv2d(i, o, (1, 5), (1, stride), padding=(0, 2)))
        for i, o, stride in zip(sizes, sizes[1:], strides, strict=False)
    ]
    post = normed(nn.Conv2d(sizes[-1], 1, (1, 3), padding=(0, 1)))
    return ConvStack(convs, post, slope=0.1, logit_feature=logit_feature)
