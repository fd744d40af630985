"""Streams: any number of samples in, whole frames out, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from codec.errors import CodecError
from codec.models.codec import Codec
from codec.nn.state import StreamState


class StreamEncoder:
    """Turns audio that arrives in pieces into the codes that the whole would give.

    The stream owns its memory: one codec serves any number of streams, and a failed stream leaves nothing behind.

    Args:
        codec: a causal codec, in evaluation mode.
        batch_size: parallel streams B; all are pushed the same number of samples.
        num_codebooks: use only the first books (one of `codec.quantizer.prefixes`).
        beam: candidates kept by the search (1 is greedy).

    Raises:
        CodecError: the codec looks ahead, so that its codes cannot be given out while audio arrives.
    """

    def __init__(
        self, codec: Codec, *, batch_size: int = 1, num_codebooks: int | None = None, beam: int = 1
    ) -> None:
        _require_causal(codec)
        self.codec = codec
        self.num_codebooks = num_codebooks
        self.beam = beam
        self.state = StreamState(batch_size, codec.device)
        self._rest = torch.zeros(batch_size, codec.channels, 0, device=codec.device)

    @torch.inference_mode()
    def push(self, audio: Tensor, active: Tensor | None = None) -> Tensor:
        """Take samples `(B, C, n >= 0)`, give the codes `(B, K, t >= 0)` of the frames they complete.

        A codec that mirrors the start of the signal (EnCodec's published one) gives its first frames some frames late.

        Args:
            audio: the next samples of every stream.
            active: `(B,)` bool; streams set False stand still, and what is given and returned for them means nothing.
                Needs n to be whole frames, at every push so far, for all streams share one frame clock.

        Raises:
            ValueError: wrong shape, or `active` with broken frames.
        """
        hop = self.codec.hop
        expected = (self.state.batch_size, self.codec.channels)
        if audio.dim() != 3 or audio.shape[:2] != expected:
            raise ValueError(f"audio has shape {tuple(audio.shape)}, expected {(*expected, 'n')}")
        audio = torch.cat([self._rest, audio.to(self._rest)], dim=-1)
        if active is not None and (audio.shape[-1] % hop or self._rest.shape[-1]):
            raise ValueError(f"streams can only stand still between frames of {hop} samples")
        whole = audio.shape[-1] // hop * hop
        self._rest = audio[..., whole:].clone()
        with _only(self.state, active):
            return self.codec.encode(
                audio[..., :whole], num_codebooks=self.num_codebooks, beam=self.beam, state=self.state
            )

    def flush(self) -> Tensor:
        """End the streams: the codes `(B, K, t)` of the last, unfinished frame, and of those that came late."""
        self.state.last = True
        with torch.inference_mode():
            codes = self.codec.encode(
                self.codec.fill_frame(self._rest),
                num_codebooks=self.num_codebooks,
                beam=self.beam,
                state=self.state,
            )
        self._rest = self._rest[..., :0]
        self.state.reset()
        return codes

    def reset(self, rows: Tensor) -> None:
        """Let the streams where `rows` `(B,)` is True begin anew; call it between frames."""
        self.state.reset(rows)

    def clone(self) -> StreamEncoder:
        """An independent stream that goes on from here."""
        other = StreamEncoder(
            self.codec, batch_size=self.state.batch_size, num_codebooks=self.num_codebooks, beam=self.beam
        )
        other.state = self.state.clone()
        other._rest = self._rest.clone()
        return other


class StreamDecoder:
    """Turns codes that arrive in pieces into audio that lags by `codec.delay` samples.

    All that `push` gives, then `flush`, without the first `codec.delay` samples, is what `Codec.decode` gives.

    Args:
        codec: a codec whose decoder is causal, in evaluation mode.
        batch_size: parallel streams B.

    Raises:
        CodecError: the codec looks ahead.
    """

    def __init__(self, codec: Codec, *, batch_size: int = 1) -> None:
        _require_causal(codec)
        self.codec = codec
        self.state = StreamState(batch_size, codec.device)
        self._books: int | None = None

    @torch.inference_mode()
    def push(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """Take codes `(B, K, t >= 0)`, give audio `(B, C, t * hop)`; mirrored ends let the first frames wait.

        Args:
            codes: the next frames of every stream.
            active: `(B,)` bool; streams set False stand still, and what is given and returned for them means nothing.
        """
        self._books = codes.shape[1]
        with _only(self.state, active):
            return self.codec.decode(codes.to(self.codec.device), state=self.state)

    @torch.inference_mode()
    def flush(self) -> Tensor:
        """End the streams: the last `codec.delay` samples `(B, C, delay)`, and those that came late."""
        codec, batch = self.codec, self.state.batch_size
        self.state.last = True
        frames = -(-codec.delay // codec.hop)
        silence = torch.zeros(batch, codec.quantizer.dim, frames, device=codec.device)
        audio = codec.decoder_for(self._books)(silence, self.state)
        self.state.reset()
        if codec.delay:
            audio = audio[..., : codec.delay]
        return audio

    def reset(self, rows: Tensor) -> None:
        """Let the streams where `rows` `(B,)` is True begin anew."""
        self.state.reset(rows)

    def clone(self) -> StreamDecoder:
        """An independent stream that goes on from here."""
        other = StreamDecoder(self.codec, batch_size=self.state.batch_size)
        other.state = self.state.clone()
        other._books = self._books
        return other


@contextmanager
def _only(state: StreamState, active: Tensor | None) -> Iterator[None]:
    state.active = active
    try:
        yield
    finally:
        state.active = None


def _require_causal(codec: Codec) -> None:
    if not codec.causal:
        raise CodecError(
            "this codec is not causal: it needs sound from the future for every frame, so it cannot stream; "
            "encode whole files with it, or choose a causal model"
        )
