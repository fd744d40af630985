"""HiFi-Codec's encoder and its HiFi-GAN decoder.

Yang et al., arXiv 2305.02765; Kong et al., arXiv 2010.05646.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from codec.errors import ConfigError
from codec.models.parts import Decoder, Encoder
from codec.nn.activations import LeakyReLU, Tanh
from codec.nn.blocks import FrameGroupNorm, MultiReceptiveField, Residual, conv1d, conv_transpose1d
from codec.nn.conv import weight_norm
from codec.nn.layer import Layer, Span, StreamSequential
from codec.nn.signal import TimeGroupNorm
from codec.nn.state import StreamState

SLOPE = 0.1


class HiFiCodecEncoder(Encoder):
    """Waveform to latent: strided convolutions, each followed by parallel residual branches.

    As published it looks both ways and its group norms take their statistics over the whole signal, so every
    frame depends on every sample. The causal form normalizes each frame by itself.

    Args:
        dim: latent width D.
        rates: strides in the decoder's order (the encoder applies them in reverse); hop is their product.
        kernels: taps of the strided convolutions, in the same order; each minus its rate is even.
        width: channels of the first convolution, doubled by every stride.
        branch_kernels: taps of the parallel branches.
        dilations: of the residual layers in each branch.
        channels: audio channels.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        rates: Sequence[int] = (8, 5, 3, 2),
        kernels: Sequence[int] = (16, 11, 7, 4),
        width: int = 32,
        branch_kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
        channels: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        _check(rates, kernels)
        self.dim = dim
        self.hop = math.prod(rates)
        self.causal = causal
        self.channels = channels
        layers: list[Layer] = [conv1d(channels, width, 7, causal=causal)]
        for rate, kernel in zip(reversed(rates), reversed(kernels), strict=True):
            layers += [
                LeakyReLU(SLOPE),
                conv1d(width, width * 2, kernel, stride=rate, causal=causal),
            ]
            width *= 2
            # from the longest kernel to the shortest: the norms make the order matter
            layers.append(
                MultiReceptiveField(
                    (_branch(width, taps, dilations, causal) for taps in reversed(branch_kernels)),
                    _norms(width, len(branch_kernels), causal),
                )
            )
        self.body = weight_norm(StreamSequential(*layers))
        # upstream's slope here is the framework's default, and this convolution has no weight norm
        last = conv1d(width, dim, 3, causal=causal)
        nn.init.normal_(last.weight, std=0.01)
        self.head = StreamSequential(LeakyReLU(0.01), last)

    def forward(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of the hop, to `(B, D, N / hop)`."""
        return self.head(self.body(audio, state), state)

    def span(self, first: float, last: float) -> Span:
        """The samples that frames `first` to `last` depend on."""
        return self.body.span(*self.head.span(first, last))


class HiFiCodecDecoder(Decoder):
    """Latent to waveform: transposed convolutions, each followed by parallel residual branches (HiFi-GAN V1).

    Args:
        dim: latent width D.
        rates: strides; hop is their product.
        kernels: taps of the transposed convolutions; each minus its rate is even.
        width: channels of the first convolution, halved by every stride.
        branch_kernels: taps of the parallel branches.
        dilations: of the residual layers in each branch.
        channels: audio channels.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int = 512,
        *,
        rates: Sequence[int] = (8, 5, 3, 2),
        kernels: Sequence[int] = (16, 11, 7, 4),
        width: int = 512,
        branch_kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
        channels: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        _check(rates, kernels)
        self.dim = dim
        self.hop = math.prod(rates)
        self.causal = causal
        self.channels = channels
        layers: list[Layer] = [conv1d(dim, width, 7, causal=causal)]
        for rate, kernel in zip(rates, kernels, strict=True):
            layers += [
                LeakyReLU(SLOPE),
                conv_transpose1d(width, width // 2, kernel, stride=rate, causal=causal),
            ]
            width //= 2
            layers.append(
                MultiReceptiveField(_branch(width, taps, dilations, causal) for taps in branch_kernels)
            )
        layers += [LeakyReLU(SLOPE), conv1d(width, channels, 7, causal=causal), Tanh()]
        self.body = weight_norm(StreamSequential(*layers))


def _branch(width: int, taps: int, dilations: Sequence[int], causal: bool) -> StreamSequential:
    return StreamSequential(
        *(
            Residual(
                [
                    LeakyReLU(SLOPE),
                    conv1d(width, width, taps, dilation=dilation, causal=causal),
                    LeakyReLU(SLOPE),
                    conv1d(width, width, taps, causal=causal),
                ]
            )
            for dilation in dilations
        )
    )


def _norms(width: int, count: int, causal: bool) -> Iterator[Layer]:
    kind = FrameGroupNorm if causal else TimeGroupNorm
    return (kind(max(1, width // 16), width, eps=1e-6) for _ in range(count))


def _check(rates: Sequence[int], kernels: Sequence[int]) -> None:
    if len(rates) != len(kernels):
        raise ConfigError(f"{len(rates)} rates need as many kernels, not {len(kernels)}")
    for rate, kernel in zip(rates, kernels, strict=True):
        if kernel < rate:
            raise ConfigError(f"a kernel of {kernel} samples leaves holes at a rate of {rate}")
