"""SEANet, the convolutional encoder and decoder of SoundStream, EnCodec and Mimi.

Zeghidour et al., arXiv 2107.03312; Défossez et al., arXiv 2210.13438 and arXiv 2410.00037.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from codec.errors import ConfigError
from codec.models.parts import Decoder, Encoder
from codec.nn.activations import ELU
from codec.nn.blocks import Residual, conv1d, conv_transpose1d
from codec.nn.conv import weight_norm
from codec.nn.layer import Layer, StreamSequential
from codec.nn.lstm import LSTM
from codec.nn.signal import TimeGroupNorm


class SEANetEncoder(Encoder):
    """Waveform to latent: residual units and strided convolutions that double the channels, then an LSTM.

    Args:
        dim: latent width D.
        ratios: strides in the decoder's order (the encoder applies them in reverse); hop is their product.
        width: channels of the first convolution.
        residual_layers: residual units before every stride, with dilations `dilation_base ** i`.
        dilation_base: see above.
        residual_kernel: taps of the dilated convolution in a unit.
        compress: a unit is that many times narrower inside.
        true_skip: a unit's shortcut is the identity instead of a convolution of one tap.
        lstm: layers of the LSTM; 0 for none.
        last_kernel: taps of the last convolution.
        norm: `weight`, or `time` (statistics over the whole signal, EnCodec at 48 kHz; not causal).
        pad: what stands beyond the ends of the signal, `zeros` or its `mirror` image (EnCodec). A mirrored stream
            gives its first frames late, when it has heard enough, and cannot be started row by row.
        channels: audio channels.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int = 128,
        *,
        ratios: Sequence[int] = (8, 5, 4, 2),
        width: int = 32,
        residual_layers: int = 1,
        dilation_base: int = 2,
        residual_kernel: int = 3,
        compress: int = 2,
        true_skip: bool = False,
        lstm: int = 2,
        last_kernel: int = 7,
        norm: str = "weight",
        pad: str = "zeros",
        channels: int = 1,
        causal: bool = True,
    ) -> None:
        super().__init__()
        make = _Maker(norm, pad, causal, residual_kernel, dilation_base, compress, true_skip)
        self.dim = dim
        self.hop = math.prod(ratios)
        self.causal = causal
        self.channels = channels
        self.any_length = pad == "mirror"
        layers: list[Layer] = [make.conv(channels, width, 7)]
        for ratio in reversed(ratios):
            layers += [make.unit(width, index) for index in range(residual_layers)]
            layers += [ELU(), make.conv(width, width * 2, ratio * 2, stride=ratio)]
            width *= 2
        if lstm:
            layers.append(LSTM(width, lstm))
        layers += [ELU(), make.conv(width, dim, last_kernel)]
        self.body = make.finish(layers)


class SEANetDecoder(Decoder):
    """Latent to waveform: the encoder's mirror.

    Args:
        dim: latent width D.
        ratios: strides; hop is their product.
        width: channels of the last stage.
        residual_layers: residual units after every stride, with dilations `dilation_base ** i`.
        dilation_base: see above.
        residual_kernel: taps of the dilated convolution in a unit.
        compress: a unit is that many times narrower inside.
        true_skip: a unit's shortcut is the identity instead of a convolution of one tap.
        lstm: layers of the LSTM; 0 for none.
        last_kernel: taps of the last convolution.
        norm: `weight`, or `time` (statistics over the whole signal; not causal).
        pad: what stands beyond the ends of the signal, `zeros` or its `mirror` image (EnCodec).
        channels: audio channels.
        causal: look back only.
    """

    def __init__(
        self,
        dim: int = 128,
        *,
        ratios: Sequence[int] = (8, 5, 4, 2),
        width: int = 32,
        residual_layers: int = 1,
        dilation_base: int = 2,
        residual_kernel: int = 3,
        compress: int = 2,
        true_skip: bool = False,
        lstm: int = 2,
        last_kernel: int = 7,
        norm: str = "weight",
        pad: str = "zeros",
        channels: int = 1,
        causal: bool = True,
    ) -> None:
        super().__init__()
        make = _Maker(norm, pad, causal, residual_kernel, dilation_base, compress, true_skip)
        self.dim = dim
        self.hop = math.prod(ratios)
        self.causal = causal
        self.channels = channels
        width *= 2 ** len(ratios)
        layers: list[Layer] = [make.conv(dim, width, 7)]
        if lstm:
            layers.append(LSTM(width, lstm))
        for ratio in ratios:
            layers += [ELU(), make.conv_transpose(width, width // 2, ratio * 2, stride=ratio)]
            width //= 2
            layers += [make.unit(width, index) for index in range(residual_layers)]
        layers += [ELU(), make.conv(width, channels, last_kernel)]
        self.body = make.finish(layers)


class _Maker:
    """Makes the layers of one network, which share these settings."""

    def __init__(
        self,
        norm: str,
        pad: str,
        causal: bool,
        kernel: int,
        dilation_base: int,
        compress: int,
        true_skip: bool,
    ) -> None:
        if norm not in ("weight", "time"):
            raise ConfigError(f"there is no norm {norm!r}: choose weight or time")
        if pad not in ("zeros", "mirror"):
            raise ConfigError(f"there is no padding {pad!r}: choose zeros or mirror")
        if norm == "time" and causal:
            raise ConfigError("norm: time looks at the whole signal, so it needs causal: false")
        self.norm, self.mirror, self.causal = norm, pad == "mirror", causal
        self.kernel, self.dilation_base, self.compress, self.true_skip = (
            kernel,
            dilation_base,
            compress,
            true_skip,
        )

    def conv(self, inside: int, outside: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> Layer:
        conv = conv1d(
            inside,
            outside,
            kernel,
            stride=stride,
            dilation=dilation,
            causal=self.causal,
            mirror=self.mirror,
        )
        return StreamSequential(conv, TimeGroupNorm(1, outside)) if self.norm == "time" else conv

    def conv_transpose(self, inside: int, outside: int, kernel: int, *, stride: int) -> Layer:
        norm = TimeGroupNorm(1, outside) if self.norm == "time" else None
        return conv_transpose1d(inside, outside, kernel, stride=stride, causal=self.causal, norm=norm)

    def unit(self, width: int, index: int) -> Layer:
        inside = width // self.compress
        body = [
            ELU(),
            self.conv(width, inside, self.kernel, dilation=self.dilation_base**index),
            ELU(),
            self.conv(inside, width, 1),
        ]
        return Residual(body, None if self.true_skip else self.conv(width, width, 1))

    def finish(self, layers: list[Layer]) -> StreamSequential:
        body = StreamSequential(*layers)
        if self.norm == "weight":
            weight_norm(body)
        return body
