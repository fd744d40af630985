"""The codec: encoder, quantizer and decoder joined, offline and streamed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.nn.receptive import receptive_field
from codec.nn.start import normalize_convolutions
from codec.nn.state import StreamState
from codec.nn.version import Changing
from codec.quantizers.base import Quantizer

Span = tuple[int, int]  # first sample or frame, and the first one after


@dataclass(frozen=True, slots=True)
class CodecOutput:
    """What a training step needs.

    Attributes:
        audio: reconstruction `(B, C, N)`.
        codes: `(B, K, T)` int64.
        losses: the quantizer's unweighted scalars.
        metrics: detached values to log.
        first: `(B, D, T)` latents that the first books alone give, for a semantic teacher.
    """

    audio: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    first: Tensor


class Codec(Changing):
    """Audio to codes and back.

    Args:
        encoder: `(B, C, N)` to `(B, D, N / hop)`; has `dim`, `hop`, `causal`.
        quantizer: `(B, D, T)` to codes `(B, K, T)` and back.
        decoder: `(B, D, T)` to `(B, C, T * hop)`; has `dim`, `hop`, `causal`, `delay`. One that has `conditions`, one
            for each legal number of books, is told of how many books its latents are.
        sample_rate: of the audio, in Hz.
        channels: C, of input and output.

    Raises:
        ConfigError: the parts do not fit together.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: Quantizer,
        decoder: nn.Module,
        *,
        sample_rate: int,
        channels: int = 1,
    ) -> None:
        super().__init__()
        for name in ("hop", "dim"):
            ours, theirs = getattr(encoder, name), getattr(decoder, name)
            if ours != theirs:
                raise ConfigError(
                    f"the encoder's {name} is {ours} and the decoder's is {theirs}: they must be equal"
                )
        self.conditions = int(getattr(decoder, "conditions", 1))
        if self.conditions not in (1, len(quantizer.prefixes)):
            raise ConfigError(
                f"the decoder knows {self.conditions} conditions, but the quantizer has {len(quantizer.prefixes)} "
                "legal numbers of books: they must be equal"
            )
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.sample_rate = sample_rate
        self.channels = channels
        self.hop: int = encoder.hop  # type: ignore[assignment]
        self.causal = bool(encoder.causal and decoder.causal)
        self.delay: int = decoder.delay  # type: ignore[assignment]
        self.metadata: dict[
            str, Any
        ] = {}  # what the weights file says about itself; `codec.api.load` fills it

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def bitrate(self, num_codebooks: int | None = None) -> float:
        """Bits per second of the first `num_codebooks` books (all by default), packed at whole bits per code."""
        sizes = self.quantizer.codebook_sizes[:num_codebooks]
        return self.frame_rate * sum(math.ceil(math.log2(size)) for size in sizes)

    def num_frames(self, samples: int) -> int:
        """T of a signal of so many samples."""
        return -(-samples // self.hop)

    def frames_for(self, first: int, after: int | None) -> tuple[int, int | None, int]:
        """What to decode to hear the samples from `first` to before `after` (None: to the end).

        Returns:
            The first frame, how many (None: all that follow), and the sample with which their sound begins.
        """
        field = receptive_field(self.decoder)
        begin = 0 if math.isinf(field.back) else max(0, first // self.hop - int(field.back))
        frames = None
        if after is not None and not math.isinf(field.ahead):
            frames = self.num_frames(after) + int(field.ahead) - begin
        return begin, frames, begin * self.hop

    def samples_of(self, first: int, after: int) -> Span:
        """The samples that are lost with the frames from `first` to before `after`."""
        return first * self.hop, after * self.hop

    @torch.no_grad()
    def start(self, audio: Tensor) -> None:
        """Before training: set the layers that start from the statistics of some audio `(B, C, N)`.

        Convolutional encoders then give latents of mean 0 and variance 1 in every channel, so that the first steps do
        not carry them away from the codebooks.
        """
        start = getattr(self.encoder, "start", None)
        if start is not None:
            start(self.decoder, audio)
        else:
            normalize_convolutions(self.encoder, self.fill_frame(audio[:16]))

    @torch.no_grad()
    def start_books(self, audio: Tensor) -> None:
        """Before the first quantized step of training: set the codebooks that start from data.

        Books that start from one small batch hold nearly one vector a code, and leave nothing to the next books.

        Args:
            audio: `(B, C, N)` with some ten frames for each code of a book.
        """
        codebooks = list(self.quantizer.codebooks())
        if any(codebook.init_from_data for codebook in codebooks):
            self.quantizer(torch.cat([self.encoder(self.fill_frame(part)) for part in audio.split(16)]))
        for codebook in codebooks:
            codebook.restart_counts()

    def forward(
        self, audio: Tensor, *, num_codebooks: int | None = None, quantize: bool = True
    ) -> CodecOutput:
        """Reconstruct `audio` `(B, C, N)` through the quantizer, with gradients; the output has N samples.

        Without `quantize` the latents pass as they are, and there are no codes: K is 0.
        """
        z = self.encoder(self.fill_frame(audio))
        if not quantize:
            codes = torch.empty(z.shape[0], 0, z.shape[2], dtype=torch.int64, device=z.device)
            return CodecOutput(self.decode_latent(z)[..., : audio.shape[-1]], codes, {}, {}, z)
        quantized = self.quantizer(z, num_codebooks=num_codebooks)
        books = (quantized.codes >= 0).all(-1).sum(1)  # of each sample, for quantizer dropout leaves some out
        restored = self.decode_latent(quantized.quantized, books)[..., : audio.shape[-1]]
        return CodecOutput(
            restored, quantized.codes, quantized.losses, quantized.metrics, quantized.first_stage
        )

    def encode(
        self,
        audio: Tensor,
        *,
        num_codebooks: int | None = None,
        beam: int = 1,
        refine: int = 0,
        state: StreamState | None = None,
    ) -> Tensor:
        """Codes `(B, K, ceil(N / hop))` of `audio` `(B, C, N)`.

        Args:
            audio: samples in [-1, 1]; the end is padded with silence to a whole frame.
            num_codebooks: use only the first books (one of `quantizer.prefixes`).
            beam: candidates kept by the search (1 is greedy).
            refine: sweeps of coordinate descent after the search.
            state: memory of a stream; the samples then continue what came before.

        Raises:
            ValueError: wrong shape.
        """
        self._check(audio)
        padded = self.fill_frame(audio)
        z = self.encoder(padded) if state is None else self.encoder(padded, state)
        return self.quantizer.encode(z, num_codebooks=num_codebooks, beam=beam, refine=refine)

    def decode(
        self, codes: Tensor, *, num_samples: int | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Audio `(B, C, T * hop)` of `codes` `(B, K, T)`.

        Args:
            codes: any legal prefix of the books.
            num_samples: cut the result to this many samples (at most `T * hop`).
            state: memory of a stream; the result then lags by `delay` samples, which `StreamDecoder.flush` gives out.
        """
        z, books = self.quantizer.decode(codes), codes.shape[1]
        audio = self.decode_latent(z, books) if state is None else self.decoder_for(books)(z, state)
        return audio if num_samples is None else audio[..., :num_samples]

    def decode_latent(self, z: Tensor, books: int | Tensor | None = None) -> Tensor:
        """Audio `(B, C, T * hop)` of latents `(B, D, T)` of so many books, the decoder's lag taken away."""
        decoder = self.decoder_for(books)
        if self.delay == 0:
            return decoder(z)
        extra = -(-self.delay // self.hop)
        audio = decoder(F.pad(z, (0, extra)))
        return audio[..., self.delay : self.delay + z.shape[-1] * self.hop]

    def decoder_for(self, books: int | Tensor | None) -> Callable[..., Tensor]:
        """The decoder, `(z, state=None)`, told of how many books the latents are.

        Args:
            books: legal numbers, one for all rows or `(B,)`; None means all books.
        """
        if self.conditions == 1 or books is None:
            return self.decoder
        prefixes = torch.tensor(self.quantizer.prefixes, device=self.device)
        condition = torch.searchsorted(prefixes, torch.as_tensor(books, device=self.device).view(-1))
        return partial(self.decoder, condition=condition)

    def fill_frame(self, audio: Tensor) -> Tensor:
        """`audio` `(B, C, N)` with its last frame filled up with silence, unless the encoder fills it itself."""
        if getattr(self.encoder, "any_length", False):
            return audio
        missing = -audio.shape[-1] % self.hop
        return F.pad(audio, (0, missing)) if missing else audio

    def _check(self, audio: Tensor) -> None:
        if audio.dim() != 3 or audio.shape[1] != self.channels:
            raise ValueError(f"audio has shape {tuple(audio.shape)}, expected (B, {self.channels}, N)")
