"""The encoder and decoder of the Descript audio codec (Kumar et al., arXiv 2306.06546)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from codec.errors import ConfigError
from codec.models.parts import Decoder, Encoder
from codec.nn.activations import Snake, SnakeBeta, Tanh
from codec.nn.blocks import Residual, conv1d, conv_transpose1d
from codec.nn.conv import weight_norm
from codec.nn.layer import Layer, StreamSequential
from codec.nn.resample import AliasFree, Resample


class DACEncoder(Encoder):
    """Waveform to latent: dilated residual units with Snake, and strided convolutions that double the channels.

    Args:
        dim: latent width D.
        rates: strides in the decoder's order (the encoder applies them in reverse); hop is their product.
        width: channels of the first convolution.
        dilations: of the residual units before every stride.
        channels: audio channels.
        causal: look back only.
        alias_free: Snake with two parameters, between filters, as BigCodec (arXiv 2409.05377) has it; not causal.
        resample: `[up, down]`: the encoder hears the signal at up / down times its sample rate; not causal.

    Raises:
        ConfigError: filters that look ahead in a causal encoder, or a hop that is no whole number of samples.
    """

    def __init__(
        self,
        dim: int = 1024,
        *,
        rates: Sequence[int] = (8, 8, 4, 2),
        width: int = 64,
        dilations: Sequence[int] = (1, 3, 9),
        channels: int = 1,
        causal: bool = False,
        alias_free: bool = False,
        resample: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if causal and (alias_free or resample):
            raise ConfigError(
                "alias_free and resample need filters that look ahead, so they need causal: false"
            )
        up, down = resample or (1, 1)
        if math.prod(rates) * down % up:
            raise ConfigError(f"the rates {list(rates)} at {up}/{down} of the sample rate make no whole hop")
        self.dim = dim
        self.hop = math.prod(rates) * down // up
        self.causal = causal
        self.channels = channels
        snake = _alias_free if alias_free else Snake
        layers: list[Layer] = [Resample(up, down, channels=channels)] if resample else []
        layers.append(conv1d(channels, width, 7, causal=causal))
        for rate in reversed(rates):
            layers += [_unit(width, dilation, causal, snake) for dilation in dilations]
            layers += [snake(width), conv1d(width, width * 2, 2 * rate, stride=rate, causal=causal)]
            width *= 2
        layers += [snake(width), conv1d(width, dim, 3, causal=causal)]
        self.body = _finish(layers)


class DACDecoder(Decoder):
    """Latent to waveform: transposed convolutions that halve the channels, each followed by residual units.

    Args:
        dim: latent width D.
        rates: strides; hop is their product.
        width: channels of the first convolution.
        dilations: of the residual units after every stride.
        channels: audio channels.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int = 1024,
        *,
        rates: Sequence[int] = (8, 8, 4, 2),
        width: int = 1536,
        dilations: Sequence[int] = (1, 3, 9),
        channels: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.hop = math.prod(rates)
        self.causal = causal
        self.channels = channels
        layers: list[Layer] = [conv1d(dim, width, 7, causal=causal)]
        for rate in rates:
            layers += [
                Snake(width),
                conv_transpose1d(width, width // 2, 2 * rate, stride=rate, causal=causal),
            ]
            width //= 2
            layers += [_unit(width, dilation, causal) for dilation in dilations]
        layers += [Snake(width), conv1d(width, channels, 7, causal=causal), Tanh()]
        self.body = _finish(layers)


def _unit(width: int, dilation: int, causal: bool, snake: Callable[[int], Layer] = Snake) -> Residual:
    return Residual(
        [
            snake(width),
            conv1d(width, width, 7, dilation=dilation, causal=causal),
            snake(width),
            conv1d(width, width, 1, causal=causal),
        ]
    )


def _alias_free(width: int) -> AliasFree:
    return AliasFree(SnakeBeta(width))


def _finish(layers: list[Layer]) -> StreamSequential:
    body = StreamSequential(*layers)
    for layer in body.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    weight_norm(body)
    return body
