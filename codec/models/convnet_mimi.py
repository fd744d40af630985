"""Mimi's encoder and decoder (Défossez et al., arXiv 2410.00037): SEANet, a windowed transformer, a last stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from codec.models.convnet_seanet import SEANetDecoder, SEANetEncoder
from codec.models.parts import Decoder, Encoder
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d
from codec.nn.layer import Span
from codec.nn.state import StreamState
from codec.nn.transformer import Transformer


class MimiEncoder(Encoder):
    """Waveform to latent, causal: SEANet to 25 frames a second, a transformer, and a stride to 12.5.

    Args:
        dim: latent width D.
        ratios: SEANet's strides in the decoder's order.
        stride: frames merged after the transformer; hop is the product of all.
        width: channels of SEANet's first convolution.
        layers: of the transformer.
        heads: of each attention.
        window: frames in reach of each layer, before the last stride.
        channels: audio channels.
    """

    causal = True

    def __init__(
        self,
        dim: int = 512,
        *,
        ratios: Sequence[int] = (8, 6, 5, 4),
        stride: int = 2,
        width: int = 64,
        layers: int = 8,
        heads: int = 8,
        window: int = 250,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.seanet = SEANetEncoder(
            dim, ratios=ratios, width=width, true_skip=True, lstm=0, last_kernel=3, channels=channels
        )
        self.transformer = Transformer(dim, layers=layers, heads=heads, window=window)
        self.merge = CausalConv1d(dim, dim, 2 * stride, stride=stride, bias=False)
        self.dim = dim
        self.hop = self.seanet.hop * stride
        self.channels = channels

    def forward(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of the hop, to `(B, D, N / hop)`."""
        return self.merge(self.transformer(self.seanet(audio, state), state), state)

    def span(self, first: float, last: float) -> Span:
        """The samples that frames `first` to `last` depend on."""
        return self.seanet.span(*self.transformer.span(*self.merge.span(first, last)))


class MimiDecoder(Decoder):
    """Latent to waveform, causal: the encoder's mirror.

    Args:
        dim: latent width D.
        ratios: SEANet's strides.
        stride: frames made of one before the transformer.
        width: channels of SEANet's last stage.
        layers: of the transformer.
        heads: of each attention.
        window: frames in reach of each layer, after the first stride.
        channels: audio channels.
    """

    causal = True

    def __init__(
        self,
        dim: int = 512,
        *,
        ratios: Sequence[int] = (8, 6, 5, 4),
        stride: int = 2,
        width: int = 64,
        layers: int = 8,
        heads: int = 8,
        window: int = 250,
        channels: int = 1,
    ) -> None:
        super().__init__()
        self.split = CausalConvTranspose1d(dim, dim, 2 * stride, stride=stride, bias=False)
        self.transformer = Transformer(dim, layers=layers, heads=heads, window=window)
        self.seanet = SEANetDecoder(
            dim, ratios=ratios, width=width, true_skip=True, lstm=0, last_kernel=3, channels=channels
        )
        self.dim = dim
        self.hop = self.seanet.hop * stride
        self.channels = channels

    def forward(self, z: Tensor, state: StreamState | None = None, bitrate: Tensor | None = None) -> Tensor:
        """`(B, D, T)` to `(B, C, T * hop)`."""
        return self.seanet(self.transformer(self.split(z, state), state), state)

    def span(self, first: float, last: float) -> Span:
        """The frames that samples `first` to `last` depend on."""
        return self.split.span(*self.transformer.span(*self.seanet.span(first, last)))
