"""What a codec is built of: the interfaces of encoders and decoders."""

from __future__ import annotations

from torch import Tensor

from codec.nn.layer import Layer, ReceptiveField, Span, StreamSequential
from codec.nn.start import normalize_convolutions
from codec.nn.state import StreamState


class Encoder(Layer):
    """Waveform to latent. By default the layers stand in `body`.

    Attributes:
        dim: latent width D.
        hop: samples per frame.
        causal: no frame depends on samples after its own.
        channels: audio channels C.
        any_length: takes a last frame that is not full and fills it up itself.
    """

    dim: int
    hop: int
    causal: bool
    channels: int
    any_length: bool = False
    body: StreamSequential

    def forward(self, audio: Tensor, state: StreamState | None = None) -> Tensor:
        """`(B, C, N)`, N a multiple of the hop, to `(B, D, N / hop)`."""
        return self.body(audio, state)

    def span(self, first: float, last: float) -> Span:
        """The samples that frames `first` to `last` depend on."""
        return self.body.span(first, last)

    def receptive_field(self) -> ReceptiveField:
        """What one frame sees around its own `hop` samples, in samples."""
        first, last = self.span(0, 0)
        return ReceptiveField(-first, max(last - (self.hop - 1), 0))

    def initialise(self, audio: Tensor, decoder: Decoder) -> None:
        """Before training: set what starts from the statistics of `audio` `(B, C, N)`, also in the decoder to come.

        Convolutional encoders then give latents of mean 0 and variance 1 in every channel, so that the first steps
        do not carry them away from the codebooks.
        """
        normalize_convolutions(self, audio[:16])


class Decoder(Layer):
    """Latent to waveform. By default the layers stand in `body`.

    Attributes:
        dim: latent width D.
        hop: samples per frame.
        causal: no sample depends on frames after its own, `delay` aside.
        channels: audio channels C.
        delay: samples that the output lags.
        bitrates: how many bit rates the decoder tells apart, as many as there are legal numbers of codebooks; 1 for
            none. It is then given the number of each row's bit rate (`bandwidth_id` in Vocos, arXiv 2306.00814).
    """

    dim: int
    hop: int
    causal: bool
    channels: int
    delay: int = 0
    bitrates: int = 1
    body: StreamSequential

    def forward(self, z: Tensor, state: StreamState | None = None, bitrate: Tensor | None = None) -> Tensor:
        """`(B, D, T)` to `(B, C, T * hop)`, lagging by `delay` samples.

        Args:
            z: latents.
            state: memory of a stream.
            bitrate: `(B,)` int64, number of each row's bit rate; the highest if not given.
        """
        return self.body(z, state)

    def span(self, first: float, last: float) -> Span:
        """The frames that samples `first` to `last` of the lagging output depend on."""
        return self.body.span(first, last)

    def receptive_field(self) -> ReceptiveField:
        """What is heard in one frame's `hop` samples, in frames around it."""
        first, last = self.span(self.delay, self.delay + self.hop - 1)
        return ReceptiveField(-first, max(last, 0))
