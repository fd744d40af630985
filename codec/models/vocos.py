"""Vocos's decoder (Siuzdak, arXiv 2306.00814) and its kin: all at the frame rate, then an inverse STFT."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from codec.errors import ConfigError
from codec.models.parts import Decoder
from codec.nn.activations import SiLU
from codec.nn.blocks import FrameGroupNorm, Residual, conv1d
from codec.nn.convnext import AdaLayerNorm, ConvNeXtBlock
from codec.nn.istft import InverseSTFT
from codec.nn.layer import Layer, Span, StreamSequential
from codec.nn.linear import Linear
from codec.nn.state import StreamState
from codec.nn.transformer import Transformer


class VocosDecoder(Decoder):
    """Latent to waveform: a convolution, ConvNeXt blocks, and a spectrum of magnitudes and phases per frame.

    Language-Codec (arXiv 2402.12208) and SimVQ (arXiv 2411.02038) use it as it is; WavTokenizer (arXiv 2408.16532) puts
    residual units and attention before the blocks, and NeuCodec (arXiv 2509.09550) has a transformer in their place.

    Args:
        dim: latent width D.
        hop: samples per frame.
        window: samples of the transform, at least two hops.
        width: channels of the network.
        hidden: width inside each block's perceptron.
        layers: ConvNeXt blocks, whose norms alone depend on the condition.
        kernel_size: frames that each block's convolution spans.
        conditions: bit rates that the norms tell apart (AdaLayerNorm): as many as there are legal numbers of codebooks,
                or 1.
        residuals: units of two convolutions before the attention, and as many after it.
        attention: layers of attention between them.
        heads: of each attention.
        reach: frames before (and, if not causal, after) the own one that each attention sees.
        channels: audio channels.
        causal: look back only; the sound then lags by `delay` samples.

    Raises:
        ConfigError: the window does not fit the hop, or the heads do not fit the width.
    """

    def __init__(
        self,
        dim: int = 128,
        *,
        hop: int = 320,
        window: int = 1280,
        width: int = 384,
        hidden: int = 1152,
        layers: int = 12,
        kernel_size: int = 7,
        conditions: int = 1,
        residuals: int = 0,
        attention: int = 0,
        heads: int = 8,
        reach: int = 128,
        channels: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if conditions < 1:
            raise ConfigError(f"a decoder has at least one condition, not {conditions}")
        self.dim, self.hop, self.causal, self.bitrates = dim, hop, causal, conditions
        front: list[Layer] = [conv1d(dim, width, 7, causal=causal)]
        front += [_unit(width, causal) for _ in range(residuals)]
        if attention:
            ahead = 0 if causal else reach
            front += [Transformer(width, layers=attention, heads=heads, window=reach + 1, ahead=ahead)]
            front += [_unit(width, causal) for _ in range(residuals)]
        self.front = StreamSequential(*front)
        self.norm = AdaLayerNorm(width, conditions) if layers else None
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(
                width,
                hidden,
                kernel_size=kernel_size,
                scale=1 / max(1, layers),
                conditions=conditions,
                causal=causal,
            )
            for _ in range(layers)
        )
        self.last = AdaLayerNorm(width)
        self.inverse = InverseSTFT(window, hop, channels=channels, causal=causal)
        self.head = Linear(width, 2 * self.inverse.bins * channels)
        self.channels, self.delay = channels, self.inverse.delay
        for part in self.modules():
            if isinstance(part, nn.Conv1d | nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, z: Tensor, state: StreamState | None = None, bitrate: Tensor | None = None) -> Tensor:
        """`(B, D, T)` to `(B, C, T * hop)`, lagging by `delay` samples.

        Args:
            z: latents.
            state: memory of a stream.
            bitrate: `(B,)` int64, number of each row's bit rate; the highest if not given.
        """
        x = self.front(z, state)
        if self.norm is not None:
            x = self.norm(x.transpose(1, 2), bitrate).transpose(1, 2)
        for block in self.blocks:
            x = block(x, state, bitrate)
        x = self.head(self.last(x.transpose(1, 2)))
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            magnitude, phase = x.unflatten(-1, (self.channels, 2, -1)).unbind(3)  # (B, T, C, bins)
            # as published: no magnitude above 100
            magnitude = magnitude.clamp(max=math.log(100)).exp()
            spectrum = torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1).flatten(2)
            return self.inverse(spectrum.transpose(1, 2), state)

    def span(self, first: float, last: float) -> Span:
        """The frames that samples `first` to `last` of the lagging output depend on."""
        span = self.inverse.span(first, last)
        for block in reversed(self.blocks):
            span = block.span(*span)  # type: ignore[operator]
        return self.front.span(*span)


def _unit(width: int, causal: bool) -> Residual:
    """Twice norm, activation and convolution; the norms see a frame by itself, so that they stream."""
    layers: list[Layer] = []
    for _ in range(2):
        # 32 groups as published, unless that leaves a group fewer than four channels to tell apart
        norm = FrameGroupNorm(math.gcd(32, width // 4), width, eps=1e-6)
        layers += [norm, SiLU(), conv1d(width, width, 3, causal=causal)]
    return Residual(layers)
