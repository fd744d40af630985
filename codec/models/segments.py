"""A codec that treats a signal in overlapping segments, each by itself at its own level (EnCodec at 48 kHz)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.models.codec import Codec
from codec.models.latent import Span
from codec.models.parts import Decoder, Encoder
from codec.nn.layer import ReceptiveField
from codec.nn.state import StreamState
from codec.quantizers.base import Quantizer

LOUDEST, OCTAVES = 2.0, 20.0  # levels that have a code; what is softer is silence


class SegmentedCodec(Codec):
    """Segments of `length` samples that begin every `stride` samples, coded apart and faded into one another.

    Every segment is divided by its level, which the decoder must know (Défossez et al., arXiv 2210.13438). It is the
    first frame of the segment's codes, so that the codes alone are the sound: a number on a scale of decibels, written
    in the codebooks of the smallest prefix, its coarse digit first. Every frame is a legal level. So there are somewhat
    more frames than `N / hop`: with EnCodec's settings 151 for 0.99 s, in place of 148.5.

    Args:
        encoder: see `Codec`.
        quantizer: the codebooks of its smallest prefix carry the levels, the others are 0 in these frames.
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
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
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

    @property
    def normalises(self) -> bool:
        """Norms are over one segment, so no frame depends on the whole signal."""
        return False

    @property
    def encoder_lag(self) -> float:
        """See `LatentCodec`; a segment is coded as a whole."""
        return self.length - self.hop

    @property
    def decoder_lag(self) -> float:
        """See `LatentCodec`; a segment is decoded as a whole."""
        return self.length - self.hop

    def receptive_field(self) -> ReceptiveField:
        """See `LatentCodec`; a sound in the fade is of two segments."""
        return ReceptiveField(self.stride, self.length - self.hop)

    def encode_block(self, audio: Tensor, state: StreamState, **search: int | None) -> Tensor:
        """Codes `(B, K, t)` of the segments that are whole by now, each after its level."""
        before = state.take(self)
        waiting = audio if before is None else torch.cat([before, audio], dim=-1)
        parts = [audio.new_zeros(len(audio), self.legal(search["num_codebooks"]), 0, dtype=torch.int64)]
        while waiting.shape[-1] > (0 if state.last else self.length):
            parts.append(self._encode_segment(waiting[..., : self.length], **search))
            waiting = waiting[..., self.stride :]
        if not state.last:
            state.hold(self, waiting)
        return torch.cat(parts, dim=-1)

    def decode_block(self, codes: Tensor, state: StreamState) -> Tensor:
        """Audio `(B, C, n)` of codes `(B, K, t)`, given out as far as no later segment changes it."""
        if codes.shape[-1]:
            codes = torch.cat([self._lost_codes(codes.shape[1], state), codes], dim=-1)
            state.hold(self, codes[..., -1:], "last")
            state.put(self, state.get(self, (), torch.int64, "place") + codes.shape[-1], "place")
        return self._decode_segments(codes, state)

    def conceal_block(self, frames: int, state: StreamState) -> Tensor:
        """Nothing yet: what is lost is filled up when the next codes come, or the end."""
        before = state.take(self, "lost")
        lost = torch.full((state.batch_size, 1), frames, dtype=torch.int64, device=state.device)
        state.hold(self, lost if before is None else before + lost, "lost")
        return torch.zeros(state.batch_size, self.channels, 0, device=state.device)

    def finish_block(self, state: StreamState) -> Tensor:
        """The sound of the last segments."""
        return self._decode_segments(self._lost_codes(self.quantizer.prefixes[0], state), state)

    def segments(self, codes: Tensor, *, last: bool = True) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Codes `(B, K, t)` and level `(B,)` of every segment of the codes `(B, K, T)` that `encode` gives.

        Args:
            codes: from the beginning of a segment on.
            last: the signal ends with them; else what may be part of an unfinished segment is left.

        Returns:
            The segments, and the codes that are left.
        """
        # the last segment has two frames at least, and may be as short as the overlap
        tail = self._frames + 1 - (-(self.length - self.stride) // self.hop)
        found = []
        while codes.shape[-1] > (1 if last else tail):
            short = last and codes.shape[-1] == self._frames + 1
            frames = self._frames - 1 if short else self._frames
            found.append(self._split_level(codes[..., :frames]))
            codes = codes[..., frames:]
        return found, codes

    def encode_whole(self, audio: Tensor, **search: int | None) -> Tensor:
        """Codes `(B, K, T)` of a whole signal at once."""
        whole = StreamState(self, len(audio), audio.device)
        whole.last = True
        return self.encode_block(audio, whole, **search)

    def decode_whole(self, codes: Tensor) -> Tensor:
        """Audio `(B, C, n)` of all codes `(B, K, T)` at once."""
        stream = self.decoder_stream(len(codes))
        return torch.cat([stream.push(codes), stream.flush()], dim=-1)

    def _decode_segments(self, codes: Tensor, state: StreamState) -> Tensor:
        before = state.take(self, "codes")
        codes = codes if before is None else torch.cat([before, codes], dim=-1)
        found, waiting = self.segments(codes, last=state.last)
        # a triangle over a whole segment weighs each, and where two are heard their weights are brought to 1
        whole = -(-self.length // self.hop) * self.hop
        weight = 0.5 - (torch.linspace(0, 1, whole + 2, device=self.device)[1:-1] - 0.5).abs()
        heard, weights = state.take(self, "heard"), state.take(self, "weights")
        done = [torch.zeros(state.batch_size, self.channels, 0, device=state.device)]
        for part, level in found:
            sound = super().decode_whole(part) * level[:, None, None]
            mine = weight[: sound.shape[-1]]
            sound = sound * mine
            if heard is not None and weights is not None:
                done.append(heard[..., : self.stride] / weights[..., : self.stride])
                heard, weights = heard[..., self.stride :], weights[..., self.stride :]
                common = max(heard.shape[-1], sound.shape[-1])
                sound = _filled(heard, common) + _filled(sound, common)
                mine = _filled(weights, common) + _filled(mine, common)
            heard, weights = sound, mine.expand(state.batch_size, 1, -1)
        if state.last:
            done += [] if heard is None or weights is None else [heard / weights]
        else:
            state.hold(self, waiting, "codes")
            if heard is not None and weights is not None:
                state.hold(self, heard, "heard")
                state.hold(self, weights, "weights")
        return torch.cat(done, dim=-1)

    def _lost_codes(self, num_codebooks: int, state: StreamState) -> Tensor:
        """Codes `(B, K, t)` for lost frames: the last one stays, and a segment without its level is silent."""
        lost, last = state.take(self, "lost"), state.take(self, "last")
        if last is None:
            last = torch.zeros(state.batch_size, num_codebooks, 1, dtype=torch.int64, device=state.device)
        frames = 0 if lost is None else int(lost[0])
        codes = last.repeat(1, 1, frames)
        start = int(state.get(self, (), torch.int64, "place")[0])
        codes[..., -start % self._frames :: self._frames] = 0
        return codes

    def _encode_segment(self, audio: Tensor, **search: int | None) -> Tensor:
        # in 64 bits, so that the order of the sum does not show
        level = 1e-8 + audio.mean(1).double().square().mean(1).sqrt()
        codes = super().encode_whole(audio / level.float()[:, None, None], **search)
        steps = math.prod(self._digits) - 1
        number = (steps * (1 + (level / LOUDEST).log2() / OCTAVES)).round().clamp(0, steps).long()
        first = codes.new_zeros(*codes.shape[:2], 1)
        for codebook in reversed(range(len(self._digits))):
            first[:, codebook, 0] = number % self._digits[codebook]
            number = number // self._digits[codebook]
        return torch.cat([first, codes], dim=-1)

    def _split_level(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Codes `(B, K, t)` of one segment to those after the level, and the level `(B,)`; 0 is silence."""
        number = codes.new_zeros(len(codes))
        for codebook, size in enumerate(self._digits):
            number = number * size + codes[:, codebook, 0]
        steps = math.prod(self._digits) - 1
        level = LOUDEST * torch.exp2((number.double() / steps - 1) * OCTAVES)
        return codes[..., 1:], torch.where(number > 0, level, 0.0).float()


def _filled(x: Tensor, length: int) -> Tensor:
    return F.pad(x, (0, length - x.shape[-1]))
