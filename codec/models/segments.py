"""A codec that treats a signal in overlapping segments, each by itself at its own level (EnCodec at 48 kHz)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import CodecError, ConfigError
from codec.models.codec import Codec, Span
from codec.nn.state import StreamState
from codec.quantizers.base import Quantizer

LOUDEST, OCTAVES = 2.0, 20.0  # levels that have a code; what is softer is silence


class SegmentedCodec(Codec):
    """Segments of `length` samples that begin every `stride` samples, coded apart and faded into one another.

    Every segment is divided by its level, which the decoder must know (Défossez et al., arXiv 2210.13438). It is the
    first frame of the segment's codes, so that the codes alone are the sound: a number on a scale of decibels, written
    in the books of the smallest prefix, its coarse digit first. Every frame is a legal level, and none is a shout. So
    there are somewhat more frames than `N / hop`: with EnCodec's settings 151 for 0.99 s, in place of 148.5.

    Args:
        encoder: see `Codec`.
        quantizer: the books of its smallest prefix carry the levels, the others are 0 in these frames.
        decoder: see `Codec`.
        sample_rate: of the audio, in Hz.
        channels: C, of input and output.
        length: samples of a segment.
        stride: samples between the starts of segments, about `length`: the number of frames must tell where the last
            segment begins, and it does for an overlap of up to a frame and a half.

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
        length: int,
        stride: int,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, sample_rate=sample_rate, channels=channels)
        if not 0 < stride <= length <= stride + 1.5 * self.hop:
            raise ConfigError(
                f"segments of {length} samples every {stride} must overlap, by at most {1.5 * self.hop:g} samples"
            )
        self.length, self.stride = length, stride
        self.causal = False
        self._digits = quantizer.codebook_sizes[: quantizer.prefixes[0]]
        self._frames = 1 + -(-length // self.hop)  # of a whole segment

    def num_frames(self, samples: int) -> int:
        """T of a signal of so many samples."""
        count = -(-samples // self.stride)
        last = samples - (count - 1) * self.stride
        # the end of the signal may lie in two segments
        before = min(self.length, last + self.stride)
        return (
            max(0, count - 2) * self._frames
            + (count > 1) * (1 - (-before // self.hop))
            + (count > 0) * (1 - (-last // self.hop))
        )

    def frames_for(self, first: int, after: int | None) -> tuple[int, int | None, int]:
        """See `Codec`; parts of segments cannot be decoded."""
        begin = max(0, first // self.stride - 1)
        frames = None if after is None else (-(-after // self.stride) - begin) * self._frames
        return begin * self._frames, frames, begin * self.stride

    def samples_of(self, first: int, after: int) -> Span:
        """See `Codec`; without its level a segment is lost to its end."""

        def sample(frame: int) -> int:
            segment, inside = divmod(frame, self._frames)
            return segment * self.stride + max(0, inside - 1) * self.hop

        last = (after - 1) // self._frames
        loses_level = first <= last * self._frames
        return sample(first), last * self.stride + self.length if loses_level else sample(after)

    @torch.no_grad()
    def encode(
        self,
        audio: Tensor,
        *,
        num_codebooks: int | None = None,
        beam: int = 1,
        refine: int = 0,
        state: StreamState | None = None,
    ) -> Tensor:
        """Codes `(B, K, T)` of `audio` `(B, C, N)`: those of every segment after its level.

        Raises:
            CodecError: a stream is asked for.
        """
        self._check(audio)
        _refuse(state)
        parts = list(self.encode_segments([audio], num_codebooks=num_codebooks, beam=beam, refine=refine))
        books = self.quantizer.prefixes[-1] if num_codebooks is None else num_codebooks
        return torch.cat(parts, dim=-1) if parts else audio.new_zeros(len(audio), books, 0, dtype=torch.int64)

    @torch.no_grad()
    def decode(
        self, codes: Tensor, *, num_samples: int | None = None, state: StreamState | None = None
    ) -> Tensor:
        """Audio `(B, C, n)` of codes `(B, K, T)`; n reaches at least to the end of what was encoded.

        Raises:
            CodecError: a stream is asked for.
        """
        _refuse(state)
        silence = torch.zeros(len(codes), self.channels, 0, device=codes.device)
        audio = torch.cat([silence, *self.decode_segments([codes])], dim=-1)
        return audio if num_samples is None else audio[..., :num_samples]

    def encode_segments(self, pieces: Iterable[Tensor], **search: Any) -> Iterator[Tensor]:
        """Codes `(B, K, t)` of one segment after the other, of audio `(B, C, n)` that comes in pieces."""
        waiting: Tensor | None = None
        for piece in pieces:
            waiting = piece if waiting is None else torch.cat([waiting, piece], dim=-1)
            while waiting.shape[-1] > self.length:
                yield self._encode_segment(waiting[..., : self.length], **search)
                waiting = waiting[..., self.stride :]
        while waiting is not None and waiting.shape[-1]:
            yield self._encode_segment(waiting[..., : self.length], **search)
            waiting = waiting[..., self.stride :]

    def decode_segments(self, pieces: Iterable[Tensor | int], *, batch_size: int = 1) -> Iterator[Tensor]:
        """Audio `(B, C, n)` of codes that come in pieces, given out as far as no later segment changes it.

        A number in place of a piece stands for so many lost frames; `batch_size` is B where all are lost.
        """
        # a triangle over a whole segment weighs each, and where two are heard their weights are brought to 1
        whole = -(-self.length // self.hop) * self.hop
        weight = 0.5 - (torch.linspace(0, 1, whole + 2, device=self.device)[1:-1] - 0.5).abs()
        heard: Tensor | None = None
        weights = weight
        for codes, level in self.segments(pieces, batch_size=batch_size):
            decoder = self.decoder_for(codes.shape[1])
            sound = decoder(self.quantizer.decode(codes)) * level[:, None, None]
            mine = weight[: sound.shape[-1]]
            sound = sound * mine
            if heard is not None:
                yield heard[..., : self.stride] / weights[: self.stride]
                heard, weights = heard[..., self.stride :], weights[self.stride :]
                common = max(heard.shape[-1], sound.shape[-1])
                sound = _filled(heard, common) + _filled(sound, common)
                mine = _filled(weights, common) + _filled(mine, common)
            heard, weights = sound, mine
        if heard is not None:
            yield heard / weights

    def segments(
        self, pieces: Iterable[Tensor | int], *, batch_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Codes `(B, K, t)` and level `(B,)` of every segment, of the codes `(B, K, T)` that `encode` gives.

        Where frames are lost the last one stays, and a segment whose level is lost is silent.
        """
        # the last segment has two frames at least, and may be as short as the overlap
        tail = self._frames + 1 - (-(self.length - self.stride) // self.hop)
        waiting: Tensor | None = None
        for piece in self._filled(pieces, batch_size):
            waiting = piece if waiting is None else torch.cat([waiting, piece], dim=-1)
            while waiting.shape[-1] > tail:
                yield self._split_level(waiting[..., : self._frames])
                waiting = waiting[..., self._frames :]
        while waiting is not None and waiting.shape[-1] > 1:
            frames = waiting.shape[-1] - 2 if waiting.shape[-1] == self._frames + 1 else self._frames
            yield self._split_level(waiting[..., :frames])
            waiting = waiting[..., frames:]

    def _filled(self, pieces: Iterable[Tensor | int], batch_size: int) -> Iterator[Tensor]:
        at, lost = 0, 0
        last = torch.zeros(batch_size, self.quantizer.prefixes[0], 1, dtype=torch.int64, device=self.device)

        def lost_ones() -> Iterator[Tensor]:
            for start in range(at, at + lost, self._frames):
                count = min(self._frames, at + lost - start)
                part = last.repeat(1, 1, count)
                part[..., -start % self._frames :: self._frames] = 0
                yield part

        for piece in pieces:
            if isinstance(piece, int):
                lost += piece
            elif piece.shape[-1]:
                last = last if at else torch.zeros_like(piece[..., :1])
                yield from lost_ones()
                yield piece
                at, lost, last = at + lost + piece.shape[-1], 0, piece[..., -1:]
        yield from lost_ones()

    def _encode_segment(self, audio: Tensor, **search: Any) -> Tensor:
        # in 64 bits, so that the order of the sum does not show
        level = 1e-8 + audio.mean(1).double().square().mean(1).sqrt()
        codes = self.quantizer.encode(
            self.encoder(self.fill_frame(audio / level.float()[:, None, None])), **search
        )
        steps = math.prod(self._digits) - 1
        number = (steps * (1 + (level / LOUDEST).log2() / OCTAVES)).round().clamp(0, steps).long()
        first = codes.new_zeros(*codes.shape[:2], 1)
        for book in reversed(range(len(self._digits))):
            first[:, book, 0] = number % self._digits[book]
            number = number // self._digits[book]
        return torch.cat([first, codes], dim=-1)

    def _split_level(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `(B, K, t)` of one segment to those after the level, and the level `(B,)`; 0 is silence."""
        number = codes.new_zeros(len(codes))
        for book, size in enumerate(self._digits):
            number = number * size + codes[:, book, 0]
        steps = math.prod(self._digits) - 1
        level = LOUDEST * torch.exp2((number.double() / steps - 1) * OCTAVES)
        return codes[..., 1:], torch.where(number > 0, level, 0.0).float()


def _filled(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, length - x.shape[-1]))


def _refuse(state: StreamState | None) -> None:
    if state is not None:
        raise CodecError("this codec works on whole segments, so it cannot stream")
