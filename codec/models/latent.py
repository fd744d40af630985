"""A codec of continuous latents: encoder and decoder joined, and the streams through them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.audio import FULL_SCALE_LIMIT
from codec.errors import CodecError, ConfigError
from codec.models.fade import Fade
from codec.models.parts import Decoder, Encoder
from codec.nn.functional import without_autocast
from codec.nn.layer import ReceptiveField
from codec.nn.signal import Unmeasured, measure, norms_over_time
from codec.nn.state import StreamState
from codec.nn.version import Changing, session, versions

Span = tuple[int, int]  # first sample or frame, and the first one after


class LatentCodec(Changing):
    """Audio to latents and back.

    Args:
        encoder: `(B, C, N)` to `(B, D, N / hop)`.
        decoder: `(B, D, T)` to `(B, C, T * hop)`.
        sample_rate: of the audio, in Hz.
        channels: C, of input and output.

    Attributes:
        hop: samples per frame.
        causal: no frame and no sample depends on audio after it, the decoder's `delay` aside.
        delay: samples that the decoder's output lags.
        metadata: what the weights file says about itself; empty for a codec that was not loaded from one.

    Raises:
        ConfigError: the parts do not fit together.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, *, sample_rate: int, channels: int = 1) -> None:
        super().__init__()
        for name, ours, theirs in (
            ("hop", encoder.hop, decoder.hop),
            ("dim", encoder.dim, decoder.dim),
            ("number of channels", encoder.channels, decoder.channels),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"the encoder's {name} is {ours} and the decoder's is {theirs}: they must be equal"
                )
        self.encoder = encoder
        self.decoder = decoder
        self.sample_rate = sample_rate
        self.channels = channels
        self.hop = encoder.hop
        self.causal = encoder.causal and decoder.causal
        self.delay = decoder.delay
        self.metadata: dict[str, Any] = {}

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def normalises(self) -> bool:
        """Whether every frame depends on the whole signal, so that live audio cannot be coded."""
        return bool(norms_over_time(self))

    def num_frames(self, samples: int) -> int:
        """T of a signal of so many samples."""
        return -(-samples // self.hop)

    @property
    def encoder_lag(self) -> float:
        """Samples after a frame's own that its latents depend on."""
        return self.encoder.receptive_field().ahead

    @property
    def decoder_lag(self) -> float:
        """Samples that decoded audio lags behind its frame: `delay`, or what the decoder looks ahead."""
        return self.delay if self.decoder.causal else self.decoder.receptive_field().ahead * self.hop

    def receptive_field(self) -> ReceptiveField:
        """How far the sound of one frame depends on samples before and after its own."""
        back = self.encoder.receptive_field().back + self.decoder.receptive_field().back * self.hop
        return ReceptiveField(back, self.encoder_lag + self.decoder_lag)

    def frames_for(self, first: int, after: int | None) -> tuple[int, int | None, int]:
        """What to decode to hear the samples from `first` to before `after` (None: to the end).

        Returns:
            The first frame, how many (None: all that follow), and the sample with which their sound begins.
        """
        field = self.decoder.receptive_field()
        begin = 0 if math.isinf(field.back) else max(0, first // self.hop - int(field.back))
        frames = None
        if after is not None and not math.isinf(field.ahead):
            frames = self.num_frames(after) + int(field.ahead) - begin
        return begin, frames, begin * self.hop

    def samples_of(self, first: int, after: int) -> Span:
        """The samples that are lost with the frames from `first` to before `after`."""
        return first * self.hop, after * self.hop

    @torch.no_grad()
    def initialise(self, audio: Tensor) -> None:
        """Before training: set the layers that start from the statistics of some audio `(B, C, N)`."""
        self.encoder.initialise(self.fill_frame(audio), self.decoder)

    def encode_latent(self, audio: Tensor) -> Tensor:
        """Latents `(B, D, ceil(N / hop))` of `audio` `(B, C, N)`, with gradients where they are on."""
        return self.encoder(self.fill_frame(audio))

    def decode_latent(self, z: Tensor) -> Tensor:
        """Audio `(B, C, T * hop)` of latents `(B, D, T)`, the decoder's lag taken away; with gradients."""
        return self._synthesize(z, None)

    def encoder_stream(self, batch_size: int = 1) -> EncoderStream:
        """A batch of streams that turn audio into latents as it arrives."""
        return EncoderStream(self, batch_size)

    def decoder_stream(self, batch_size: int = 1) -> DecoderStream:
        """A batch of streams that turn latents into audio as they arrive."""
        return DecoderStream(self, batch_size)

    def encode_whole(self, audio: Tensor) -> Tensor:
        """What a stream gives for a whole signal at once."""
        return self.encode_latent(audio)

    def encode_block(self, audio: Tensor, state: StreamState) -> Tensor:
        """What a stream gives for the next samples: whole frames, or any number of samples at its end."""
        return self.encoder(self.fill_frame(audio) if state.last else audio, state)

    def decode_whole(self, z: Tensor) -> Tensor:
        """What a stream of a codec without delay gives for a whole signal at once."""
        return self.decode_latent(z)

    def decode_block(self, z: Tensor, state: StreamState) -> Tensor:
        """What a stream gives for the next latents, lagging by `delay` samples."""
        if z.shape[-1]:
            state.put(self, z[..., -1:], "latent")
        return self._decode(z, state)

    def conceal_block(self, frames: int, state: StreamState) -> Tensor:
        """What a stream gives where `frames` frames are lost, before it is faded: the last latent goes on."""
        last = state.get(self, (self.decoder.dim, 1), name="latent")
        return self._decode(last.expand(-1, -1, frames), state)

    def finish_block(self, state: StreamState) -> Tensor:
        """What a decoding stream still gives at its end: the samples that lag."""
        # they come out when as much silence has gone in
        frames = -(-self.delay // self.hop)
        silence = torch.zeros(state.batch_size, self.decoder.dim, frames, device=state.device)
        audio = self._decode(silence, state)
        return audio[..., : self.delay] if self.delay else audio

    def fill_frame(self, audio: Tensor) -> Tensor:
        """`audio` `(B, C, N)` with its last frame filled up with silence, unless the encoder fills it itself."""
        missing = 0 if self.encoder.any_length else -audio.shape[-1] % self.hop
        return F.pad(audio, (0, missing)) if missing else audio

    def check(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`audio` `(B, C, N)` as float32, with silence behind the `lengths` `(B,)` of its rows.

        Raises:
            CodecError: samples that are no floating point numbers or (where looking costs nothing, on the CPU) no
                sound.
            ValueError: wrong shape, or lengths that the audio does not have.
        """
        if not isinstance(audio, Tensor) or not audio.is_floating_point():
            kind = str(audio.dtype) if isinstance(audio, Tensor) else type(audio).__name__
            raise CodecError(
                f"audio is a tensor of floating point samples in [-1, 1], not {kind}: divide by full scale"
            )
        if audio.dim() != 3 or audio.shape[1] != self.channels:
            raise ValueError(f"audio has shape {tuple(audio.shape)}, expected (B, {self.channels}, N)")
        if lengths is not None:
            whole = not (lengths.is_floating_point() or lengths.dtype is torch.bool)
            if (
                not whole
                or lengths.shape != audio.shape[:1]
                or ((lengths < 0) | (lengths > audio.shape[-1])).any()
            ):
                raise ValueError(f"lengths are {lengths.tolist()} for audio of shape {tuple(audio.shape)}")
            inside = torch.arange(audio.shape[-1], device=audio.device) < lengths.to(audio.device)[:, None]
            audio = audio.where(inside[:, None], 0.0)
        if audio.device.type == "cpu" and audio.numel() and not audio.abs().amax() <= FULL_SCALE_LIMIT:
            raise CodecError(
                f"audio has a sample of {audio.abs().amax():g}, and full scale is 1.0: divide integers by theirs first"
            )
        return audio.float()

    def require_float32(self) -> None:
        """Refuse a codec whose weights were cast.

        Raises:
            CodecError: they are not in float32.
        """
        for weight in self.parameters():
            if weight.dtype is not torch.float32:
                raise CodecError(
                    f"this codec has weights in {weight.dtype}, and codes are computed in float32: call float()"
                )

    def _decode(self, z: Tensor, state: StreamState) -> Tensor:
        bitrate = state.find(self, "bitrate") if self.decoder.bitrates > 1 else None
        return self.decoder(z, state, bitrate)

    def _synthesize(self, z: Tensor, bitrate: Tensor | None) -> Tensor:
        if self.delay == 0:
            return self.decoder(z, None, bitrate)
        audio = self.decoder(F.pad(z, (0, -(-self.delay // self.hop))), None, bitrate)
        return audio[..., self.delay : self.delay + z.shape[-1] * self.hop]


class _Stream(ABC):
    """What both directions share: the memory of a batch of streams."""

    def __init__(self, codec: LatentCodec, batch_size: int) -> None:
        codec.require_float32()
        self.codec = codec
        self.device = codec.device
        self.state = StreamState(codec, batch_size, self.device)
        # frames have been through all layers with these weights as they are, see `codec.nn.version.session`
        self._prepared = False
        self._weights: list[Tensor] = []
        self._version = -1

    @contextmanager
    def _step(self, active: Tensor | None) -> Iterator[None]:
        """A step of the streams in the exact arithmetic of inference, whatever the mode of the caller."""
        if versions(self._weights) != self._version:
            weights = (*self.codec.parameters(), *self.codec.buffers())
            # those made in inference mode do not tell, and nothing made of them is kept
            self._weights = [weight for weight in weights if not weight.is_inference()]
            self._version = versions(self._weights)
            self._prepared = False
        self.state.active = active
        session.prepared = self._prepared
        try:
            with torch.no_grad(), without_autocast(self.device):
                yield
        finally:
            self.state.active = None
            session.prepared = False

    @abstractmethod
    def _take(self, piece: Any) -> Tensor:
        """What the next piece of a signal gives."""

    @abstractmethod
    def _end(self) -> Tensor:
        """What is given at the end of the signal; the streams are not made ready for another one."""

    def _measure(self, network: nn.Module, pieces: Callable[[], Iterable[Any]]) -> None:
        """Let the norms over the whole signal in `network` hear it."""

        def go(state: StreamState) -> None:
            trial = self.clone()
            trial.state = state
            for piece in pieces():
                with suppress(Unmeasured):
                    trial._take(piece)
            with suppress(Unmeasured):
                trial._end()

        if self.codec.normalises:
            measure(network, self.state, go)

    def _check_rows(self, x: Tensor, what: str) -> None:
        if not isinstance(x, Tensor) or x.dim() != 3 or len(x) != self.state.batch_size:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{what} has shape {shape}, expected ({self.state.batch_size}, ..., n)")

    def _check_active(self, active: Tensor | None) -> None:
        size = (self.state.batch_size,)
        if active is None:
            return
        if not isinstance(active, Tensor) or active.dtype is not torch.bool or active.shape != size:
            raise ValueError(f"active is {active}, expected a bool tensor of shape {size}")

    def clone(self) -> Self:
        """An independent batch of streams that goes on from here."""
        other = object.__new__(type(self))
        other.__dict__ = {
            key: value.clone() if isinstance(value, Tensor | StreamState | Fade) else value
            for key, value in self.__dict__.items()
        }
        return other


class EncoderStream(_Stream):
    """Turns audio that arrives in pieces into the codes that the whole would give.

    The stream owns its memory: one codec serves any number of streams, and a failed stream leaves nothing behind. A
    codec that looks ahead gives its frames late. One that normalises over the whole signal must `measure` it first,
    and refuses live audio.

    Args:
        codec: in evaluation mode.
        batch_size: parallel streams B; all are pushed the same number of samples.
        **search: keywords of `Codec.encode`: `num_codebooks`, `beam`, `refine`.
    """

    def __init__(self, codec: LatentCodec, batch_size: int = 1, **search: Any) -> None:
        super().__init__(codec, batch_size)
        self.search = search
        self._rest = torch.zeros(batch_size, codec.channels, 0, device=self.device)

    @property
    def latency(self) -> float:
        """Samples after a frame's own that must have arrived before the frame is given; may be infinite."""
        return self.codec.encoder_lag

    def push(self, audio: Tensor, active: Tensor | None = None) -> Tensor:
        """Take samples `(B, C, n >= 0)`, give the codes `(B, K, t >= 0)` of the frames that are complete by now.

        Args:
            audio: the next samples of every stream.
            active: `(B,)` bool; streams set False stand still, and what is given and returned for them means nothing.
                Needs n to be whole frames, at every push so far, for all streams share one frame clock.

        Raises:
            ValueError: wrong shape, or `active` with broken frames.
            CodecError: the codec normalises over the whole signal, which was not measured.
        """
        audio = self.codec.check(audio).to(self.device)
        self._check_rows(audio, "audio")
        self._check_active(active)
        if self._rest.shape[-1]:
            audio = torch.cat([self._rest, audio], dim=-1)
        whole = audio.shape[-1] // self.codec.hop * self.codec.hop
        if active is not None and (whole < audio.shape[-1] or self._rest.shape[-1]):
            raise ValueError(f"streams can only stand still between frames of {self.codec.hop} samples")
        self._rest = audio[..., whole:].clone()
        return self._encode(audio[..., :whole], active)

    def flush(self, audio: Tensor | None = None) -> Tensor:
        """End the streams: the codes `(B, K, t)` of the last, unfinished frame, and of those that are late.

        Args:
            audio: `(B, C, n)`, the last samples. If nothing came before them they are the whole signal: that is the
                quicker way for a codec that looks ahead, and one that normalises need not `measure` it.
        """
        if audio is not None:
            self._check_rows(audio, "audio")
            if self.state.empty and not self._rest.shape[-1]:
                with torch.no_grad(), without_autocast(self.device):
                    return self.codec.encode_whole(self.codec.check(audio).to(self.device), **self.search)
            codes = self.push(audio)
            return torch.cat([codes, self.flush()], dim=-1)
        try:
            return self._end()
        finally:
            self._rest = self._rest[..., :0]
            self.state.reset()

    def run(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """The codes of a whole signal that comes in pieces, as they are complete: every push, then the flush."""
        for piece in pieces:
            yield self.push(piece)
        yield self.flush()

    def reset(self, rows: Tensor) -> None:
        """Let the streams where `rows` `(B,)` is True begin anew; call it between frames.

        Raises:
            CodecError: the codec looks ahead, and its streams move together.
        """
        self.state.reset(rows)

    def measure(self, pieces: Callable[[], Iterable[Tensor]]) -> None:
        """Hear the whole signal before it is pushed, where the codec normalises over it (else nothing is done).

        Args:
            pieces: gives the signal `(B, C, n)` in pieces from its start, each time it is called: once for every
                such norm.
        """
        self._measure(self.codec.encoder, pieces)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the streams remember, so that another process can go on from here."""
        return {"rest": self._rest.clone()} | self.state.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, with the same codec.

        Raises:
            CodecError: it is of another codec or another number of streams.
        """
        histories = dict(state)
        rest = histories.pop("rest", None)
        if rest is None or rest.shape[:2] != self._rest.shape[:2]:
            raise CodecError("this is not the state of such an encoder stream")
        self.state.load_state_dict(histories)
        self._rest = rest.to(self.device, copy=True)

    def _take(self, piece: Tensor) -> Tensor:
        return self.push(piece)

    def _end(self) -> Tensor:
        self.state.last = True
        return self._encode(self._rest)

    def _encode(self, audio: Tensor, active: Tensor | None = None) -> Tensor:
        with self._step(active):
            codes = self.codec.encode_block(audio, self.state, **self.search)
        self._prepared |= codes.is_cpu and codes.shape[-1] > 0
        return codes


class DecoderStream(_Stream):
    """Turns codes that arrive in pieces into audio that lags by `codec.delay` samples.

    All that `push` gives, then `flush`, without the first `codec.delay` samples, is what `Codec.decode` gives. A codec
    that looks ahead gives its samples late, and no others before them.

    Args:
        codec: in evaluation mode.
        batch_size: parallel streams B.
    """

    def __init__(self, codec: LatentCodec, batch_size: int = 1) -> None:
        super().__init__(codec, batch_size)
        self._fade = Fade(batch_size, codec.sample_rate, self.device)
        self._fresh = torch.ones(batch_size, dtype=torch.bool, device=self.device)
        self._frames = 0  # taken so far
        self._heard = -codec.delay  # sample of the signal that comes next

    @property
    def latency(self) -> float:
        """Samples between the end of a frame's own and the end of what must be decoded to hear it; may be infinite."""
        return self.codec.decoder_lag

    def push(self, codes: Tensor, active: Tensor | None = None) -> Tensor:
        """Take codes `(B, K, t >= 0)`, give audio `(B, C, n)`: `t * hop` samples of a causal codec.

        Args:
            codes: the next frames of every stream.
            active: `(B,)` bool; streams set False stand still, and what is given and returned for them means nothing.
        """
        self._check_rows(codes, "codes")
        self._check_active(active)
        codes = codes.to(self.device)
        if codes.shape[-1]:
            # a stream may have begun in inference mode, whose tensors nothing else may write into
            self._fresh = torch.zeros_like(self._fresh) if active is None else self._fresh & ~active
        audio = self._decode(lambda: self.codec.decode_block(codes, self.state), codes.shape[-1], active)
        self._prepared |= audio.is_cpu and min(codes.shape[-1], audio.shape[-1]) > 0
        return audio

    def lost(self, frames: int, active: Tensor | None = None) -> Tensor:
        """Take note that `frames` frames are lost: the sound before goes on and fades out over them.

        Any division of a gap into calls gives the same sound.

        Args:
            frames: how many.
            active: `(B,)` bool; streams that are meant, all if not given.

        Raises:
            CodecError: no number of frames; or only some streams, of a codec that looks ahead.
        """
        if not isinstance(frames, int) or frames < 0:
            raise CodecError(f"{frames} frames cannot be lost")
        self._check_active(active)
        if active is not None and not self.codec.causal:
            raise CodecError("streams of a codec that looks ahead cannot lose frames one by one")
        rows = torch.ones_like(self._fresh) if active is None else active
        first, after = self.codec.samples_of(self._frames, self._frames + frames)
        self._fade.lose(first - self._heard, after - self._heard, rows, self._fresh)
        return self._decode(lambda: self.codec.conceal_block(frames, self.state), frames, active)

    def flush(self, pieces: Iterable[Tensor | int] = ()) -> Tensor:
        """End the streams: the last `codec.delay` samples `(B, C, delay)`, and those that are late.

        Args:
            pieces: the last codes, and numbers of lost frames. If nothing came before them they are the whole: that
                is the quicker way for a codec that looks ahead, and one that normalises need not `measure` it.
        """
        last = list(pieces)
        whole = [piece.to(self.device) for piece in last if isinstance(piece, Tensor)]
        for piece in whole:
            self._check_rows(piece, "codes")
        if last and len(whole) == len(last) and self.state.empty and not self.codec.delay:
            with torch.no_grad(), without_autocast(self.device):
                return self.codec.decode_whole(torch.cat(whole, dim=-1))
        if last:
            return torch.cat([*map(self._take, last), self.flush()], dim=-1)
        try:
            return self._end()
        finally:
            everyone = torch.ones_like(self._fresh)
            self.state.reset()
            self._fade.reset(everyone)
            self._fresh = everyone
            self._frames, self._heard = 0, -self.codec.delay

    def run(self, pieces: Iterable[Tensor | int]) -> Iterator[Tensor]:
        """The audio of all pieces (codes, or numbers of lost frames) as it is complete, without the lag."""
        late = self.codec.delay
        for piece in pieces:
            audio = self._take(piece)
            kept = audio[..., late:]
            late -= audio.shape[-1] - kept.shape[-1]
            yield kept
        yield self.flush()[..., late:]

    def reset(self, rows: Tensor) -> None:
        """Let the streams where `rows` `(B,)` is True begin anew.

        Raises:
            CodecError: the codec looks ahead, and its streams move together.
        """
        self.state.reset(rows)
        self._fade.reset(rows)
        self._fresh = self._fresh | rows

    def measure(self, pieces: Callable[[], Iterable[Tensor | int]]) -> None:
        """Go through the whole signal before it is pushed, where the codec normalises over it (else nothing is done).

        Args:
            pieces: gives the codes `(B, K, t)`, or numbers of lost frames, from the start, each time it is called:
                once for every such norm.
        """
        self._measure(self.codec.decoder, pieces)

    def state_dict(self) -> dict[str, Tensor]:
        """All that the streams remember, so that another process can go on from here."""
        clock = torch.tensor([self._frames, self._heard])
        own = {"clock": clock, "fresh": self._fresh.clone()} | self._fade.state_dict()
        return own | self.state.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, with the same codec.

        Raises:
            CodecError: it is of another codec or another number of streams.
        """
        own = {"clock", "fresh", "gain", "gaps"}
        if not own <= state.keys() or state["fresh"].shape != self._fresh.shape:
            raise CodecError("this is not the state of such a decoder stream")
        self.state.load_state_dict({key: value for key, value in state.items() if key not in own})
        self._frames, self._heard = state["clock"].tolist()
        self._fresh = state["fresh"].to(self.device, copy=True)
        self._fade.load_state_dict(state)

    def _decode(self, block: Callable[[], Tensor], frames: int, active: Tensor | None) -> Tensor:
        with self._step(active):
            audio = self._fade(block(), active)
        self._frames += frames
        self._heard += audio.shape[-1]
        return audio

    def _take(self, piece: Tensor | int) -> Tensor:
        return self.lost(piece) if isinstance(piece, int) else self.push(piece)

    def _end(self) -> Tensor:
        self.state.last = True
        return self._decode(lambda: self.codec.finish_block(self.state), 0, None)
