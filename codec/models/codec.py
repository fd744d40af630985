"""The codec: encoder, quantizer and decoder joined, offline and streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from codec.errors import CodecError, ConfigError
from codec.models.latent import EncoderStream, LatentCodec
from codec.models.parts import Decoder, Encoder
from codec.nn.functional import without_autocast
from codec.nn.state import StreamState
from codec.quantizers.base import Quantizer


@dataclass(frozen=True, slots=True)
class CodecOutput:
    """What a training step needs.

    Attributes:
        audio: reconstruction `(B, C, N)`.
        codes: `(B, K, T)` int64.
        losses: the quantizer's unweighted scalars.
        metrics: detached values to log.
        first: `(B, D, T)` latents that the first stage alone gives, for semantic distillation.
    """

    audio: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]
    first: Tensor


class Codec(LatentCodec):
    """Audio to codes and back.

    `encode` and `decode` compute without gradients and to the same bits in any batch, chunking and mode of the
    caller (float32 on the CPU); `forward` is for training.

    Args:
        encoder: `(B, C, N)` to `(B, D, N / hop)`.
        quantizer: `(B, D, T)` to codes `(B, K, T)` and back.
        decoder: `(B, D, T)` to `(B, C, T * hop)`.
        sample_rate: of the audio, in Hz.
        channels: C, of input and output.

    Raises:
        ConfigError: the parts do not fit together.
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
        *,
        sample_rate: int,
        channels: int = 1,
    ) -> None:
        super().__init__(encoder, decoder, sample_rate=sample_rate, channels=channels)
        if decoder.bitrates not in (1, len(quantizer.prefixes)):
            raise ConfigError(
                f"the decoder tells {decoder.bitrates} bit rates apart, but the quantizer has "
                f"{len(quantizer.prefixes)} legal numbers of codebooks: they must be equal"
            )
        self.quantizer = quantizer

    def bitrate(self, num_codebooks: int | None = None) -> float:
        """Bits per second of the first `num_codebooks` codebooks (all by default), packed at whole bits per code."""
        sizes = self.quantizer.codebook_sizes[:num_codebooks]
        return self.frame_rate * sum(math.ceil(math.log2(size)) for size in sizes)

    def legal(self, num_codebooks: int | None) -> int:
        """The number of codebooks itself, all of them for None.

        Raises:
            ConfigError: the codec has no such prefix.
        """
        prefixes = self.quantizer.prefixes
        if num_codebooks is None:
            return prefixes[-1]
        if num_codebooks not in prefixes:
            raise ConfigError(
                f"this model has no {num_codebooks} codebooks; it has {', '.join(map(str, prefixes))}"
            )
        return num_codebooks

    def codebooks_for(self, kbps: float) -> int:
        """The largest number of codebooks whose bit rate is at most `kbps` thousand bits per second.

        Raises:
            ConfigError: even the smallest needs more.
        """
        prefixes = self.quantizer.prefixes
        fitting = [count for count in prefixes if self.bitrate(count) <= kbps * 1000 + 1e-6]
        if not fitting:
            lowest = self.bitrate(prefixes[0]) / 1000
            raise ConfigError(
                f"the lowest bit rate of this model is {lowest:g} kbps, more than the {kbps:g} asked for"
            )
        return fitting[-1]

    @torch.no_grad()
    def initialise_codebooks(self, audio: Tensor) -> None:
        """Before the first quantized step of training: set the codebooks that start from data.

        Codebooks that start from one small batch hold nearly one vector a code, and leave nothing to the next.

        Args:
            audio: `(B, C, N)` with some ten frames for each code of a codebook.
        """
        codebooks = list(self.quantizer.codebooks())
        if any(codebook.init_from_data for codebook in codebooks):
            self.quantizer(torch.cat([self.encode_latent(part) for part in audio.split(16)]))
        for codebook in codebooks:
            codebook.restart_counts()

    def forward(
        self, audio: Tensor, *, num_codebooks: int | None = None, quantize: bool = True
    ) -> CodecOutput:
        """Reconstruct `audio` `(B, C, N)` through the quantizer, with gradients; the output has N samples.

        Without `quantize` the latents pass as they are, and there are no codes: K is 0.
        """
        z = self.encode_latent(audio)
        if not quantize:
            codes = torch.empty(z.shape[0], 0, z.shape[2], dtype=torch.int64, device=z.device)
            return CodecOutput(self.decode_latent(z)[..., : audio.shape[-1]], codes, {}, {}, z)
        quantized = self.quantizer(z, num_codebooks=num_codebooks)
        used = (quantized.codes >= 0).all(-1).sum(1)  # of each sample, for quantizer dropout leaves some out
        restored = self.decode_latent(quantized.quantized, used)[..., : audio.shape[-1]]
        return CodecOutput(
            restored, quantized.codes, quantized.losses, quantized.metrics, quantized.first_stage
        )

    @overload
    def encode(
        self,
        audio: Tensor,
        lengths: None = None,
        *,
        num_codebooks: int | None = None,
        beam: int = 1,
        refine: int = 0,
    ) -> Tensor: ...

    @overload
    def encode(
        self,
        audio: Tensor,
        lengths: Tensor,
        *,
        num_codebooks: int | None = None,
        beam: int = 1,
        refine: int = 0,
    ) -> tuple[Tensor, Tensor]: ...

    @torch.no_grad()
    def encode(
        self,
        audio: Tensor,
        lengths: Tensor | None = None,
        *,
        num_codebooks: int | None = None,
        beam: int = 1,
        refine: int = 0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Codes `(B, K, ceil(N / hop))` of `audio` `(B, C, N)`.

        Args:
            audio: samples in [-1, 1]; the end is padded with silence to a whole frame.
            lengths: `(B,)` samples of each row, what follows them is padding: each row's codes are then those that it
                has alone.
            num_codebooks: use only the first codebooks (one of `quantizer.prefixes`).
            beam: candidates kept by the search (1 is greedy).
            refine: sweeps of coordinate descent after the search.

        Returns:
            The codes; with `lengths` also the number of frames `(B,)` of each row, behind which its codes are 0.

        Raises:
            CodecError: samples that are no floating point numbers; weights that are not in float32.
            ValueError: wrong shape, or lengths that the audio does not have.
        """
        if lengths is not None:
            lengths = torch.as_tensor(lengths)
        audio = self.check(audio, lengths)
        self.require_float32()
        search = {"num_codebooks": num_codebooks, "beam": beam, "refine": refine}
        with without_autocast(audio.device):
            if lengths is None:
                return self.encode_whole(audio, **search)
            return self._encode_padded(audio, lengths, search)

    @torch.no_grad()
    def decode(self, codes: Tensor, *, num_samples: int | None = None) -> Tensor:
        """Audio `(B, C, T * hop)` of `codes` `(B, K, T)`.

        Args:
            codes: any legal prefix of the codebooks.
            num_samples: cut the result to this many samples (at most `T * hop`).
        """
        if not isinstance(codes, Tensor):
            raise CodecError(f"codes are an integer tensor (B, K, T), not {type(codes).__name__}")
        if num_samples is not None and num_samples < 0:
            raise ValueError(f"{num_samples} samples cannot be decoded")
        self.require_float32()
        with without_autocast(codes.device):
            return self.decode_whole(codes)[..., :num_samples]

    def decode_latent(self, z: Tensor, num_codebooks: int | Tensor | None = None) -> Tensor:
        """Audio `(B, C, T * hop)` of latents `(B, D, T)`, the decoder's lag taken away; with gradients.

        Args:
            z: latents.
            num_codebooks: of how many codebooks they are, for a decoder that tells bit rates apart: a legal number,
                one for all rows or `(B,)`; None means all.
        """
        return self._synthesize(z, self._bitrate_number(num_codebooks))

    def encoder_stream(
        self, batch_size: int = 1, *, num_codebooks: int | None = None, beam: int = 1, refine: int = 0
    ) -> EncoderStream:
        """A batch of streams that turn audio into codes as it arrives: the codes of the whole.

        Args:
            batch_size: parallel streams B.
            num_codebooks: use only the first codebooks.
            beam: candidates kept by the search (1 is greedy).
            refine: sweeps of coordinate descent after the search.

        Raises:
            ConfigError: the codec has no such number of codebooks.
        """
        number = self.legal(num_codebooks)
        return EncoderStream(self, batch_size, num_codebooks=number, beam=beam, refine=refine)

    def encode_block(self, audio: Tensor, state: StreamState, **search: int | None) -> Tensor:
        """Codes `(B, K, t)` of the next samples of a stream."""
        return self.quantizer.encode(super().encode_block(audio, state), **search)  # type: ignore[arg-type]

    def decode_block(self, codes: Tensor, state: StreamState) -> Tensor:
        """Audio `(B, C, n)` of the next codes `(B, K, t)` of a stream, lagging by `delay` samples."""
        number = self._bitrate_number(codes.shape[1])
        if number is not None:
            state.put(self, number.expand(len(codes)), "bitrate")
        return super().decode_block(self.quantizer.decode(codes), state)

    def encode_whole(self, audio: Tensor, **search: int | None) -> Tensor:
        """Codes `(B, K, T)` of a whole signal at once."""
        if not audio.numel():
            frames = self.num_frames(audio.shape[-1])
            return audio.new_zeros(len(audio), self.legal(search["num_codebooks"]), frames, dtype=torch.int64)
        return self.quantizer.encode(self.encode_latent(audio), **search)  # type: ignore[arg-type]

    def decode_whole(self, codes: Tensor) -> Tensor:
        """Audio `(B, C, n)` of all codes `(B, K, T)` at once."""
        return self.decode_latent(self.quantizer.decode(codes), codes.shape[1])

    def _encode_padded(
        self, audio: Tensor, lengths: Tensor, search: dict[str, int | None]
    ) -> tuple[Tensor, Tensor]:
        frames = torch.tensor([self.num_frames(length) for length in lengths.tolist()], device=audio.device)
        longest = int(frames.max()) if len(frames) else 0
        if self.causal and not self.encoder.any_length:
            # silence stands behind each row, as behind the row alone, and nothing else is heard of the padding
            codes = self.encode_whole(audio, **search)[..., :longest]
            return codes * (torch.arange(longest, device=audio.device) < frames[:, None])[:, None], frames
        # the layers of the others meet the end of a row with padding of their own: rows of one length go together
        codes = audio.new_zeros(len(audio), self.legal(search["num_codebooks"]), longest, dtype=torch.int64)
        for length in set(lengths.tolist()) - {0}:
            rows = (lengths == length).nonzero().flatten()
            codes[rows, :, : self.num_frames(length)] = self.encode_whole(audio[rows, :, :length], **search)
        return codes, frames

    def _bitrate_number(self, num_codebooks: int | Tensor | None) -> Tensor | None:
        """`(1,)` or `(B,)`, which of the decoder's bit rates so many codebooks are; None where it tells none apart."""
        if self.decoder.bitrates == 1 or num_codebooks is None:
            return None
        prefixes = torch.tensor(self.quantizer.prefixes, device=self.device)
        return torch.searchsorted(prefixes, torch.as_tensor(num_codebooks, device=self.device).view(-1))
