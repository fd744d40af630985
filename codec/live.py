"""Live links: sound from a pipe to token packets, and token packets to sound, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from codec import audio
from codec.audio.pcm import PcmReader, PcmWriter
from codec.bitstream import Gap, TokReader, TokWriter
from codec.headers import make_header, plan_for
from codec.long import LOST_AT_A_TIME, Fade
from codec.models.codec import Codec
from codec.stream import StreamDecoder, StreamEncoder


class Clock:
    """Measures what a live link costs: seconds of computing for each block, against the sound it stands for."""

    def __init__(self) -> None:
        self.spent: list[float] = []
        self.sound = 0.0

    @contextmanager
    def block(self) -> Iterator[None]:
        """One block, from its arrival until its result is handed on."""
        start = time.perf_counter()
        yield
        self.spent.append(time.perf_counter() - start)

    def report(self, codec: Codec, *, look_ahead: bool) -> str:
        """One line: the delays that add up to the latency, and the real-time factor."""
        rate = codec.sample_rate
        if not self.spent or not self.sound:
            return "nothing came"
        median, slow = (1000 * float(np.quantile(self.spent, q)) for q in (0.5, 0.99))
        waits = (
            f"lag {1000 * codec.delay / rate:g} ms" if look_ahead else f"frame {1000 * codec.hop / rate:g} ms"
        )
        return (
            f"{waits} + computing {median:.2f} ms (99 in 100 below {slow:.2f} ms); "
            f"{sum(self.spent) / self.sound:.3f} s of computing for a second of sound"
        )


def encode_live(
    source: BinaryIO,
    target: BinaryIO,
    codec: Codec,
    *,
    sample_rate: int | None = None,
    channels: int | None = None,
    num_codebooks: int | None = None,
    policy: str = "mix",
    clock: Clock | None = None,
) -> None:
    """Encode sound as it arrives; every frame leaves as a packet of its own.

    Args:
        source: WAV or bare 16-bit samples.
        target: gets a .tok stream, flushed frame by frame.
        codec: a causal codec.
        sample_rate: of bare samples; the codec's by default.
        channels: of bare samples; the codec's by default.
        num_codebooks: use the first books only.
        policy: for channels that do not fit.
        clock: takes the times.

    Raises:
        AudioError: the source is no sound that can be read.
        CodecError: the codec is not causal.
    """
    clock = clock or Clock()
    sound = PcmReader(
        source, sample_rate=sample_rate or codec.sample_rate, channels=channels or codec.channels
    )
    plan = audio.plan(sound.sample_rate, sound.channels, codec.sample_rate, codec.channels, policy)
    fit = audio.ToModel(plan)
    encoder = StreamEncoder(codec, batch_size=plan.streams, num_codebooks=num_codebooks)
    header = make_header(codec, plan, None, num_codebooks)
    with TokWriter(target, header, frames_per_chunk=1, index=False) as writer:

        def put(codes: Tensor) -> None:
            if codes.shape[-1]:
                writer.write(codes.transpose(0, 1).flatten(0, 1).cpu().numpy())

        try:
            for block in sound:
                with clock.block():
                    put(encoder.push(torch.from_numpy(fit.push(block))))
                clock.sound = sound.position / sound.sample_rate
        except KeyboardInterrupt:
            pass  # the end of a recording, not of the file
        put(encoder.push(torch.from_numpy(fit.flush())))
        put(encoder.flush())
        writer.num_samples = sound.position


def decode_live(
    source: BinaryIO, target: BinaryIO, codec: Codec, *, wav: bool = True, clock: Clock | None = None
) -> None:
    """Decode token packets as they arrive.

    The sound is that of `codec.api.decode_file`. Lost packets are faded over.

    Args:
        source: a .tok stream.
        target: gets 16-bit sound, flushed block by block.
        codec: the causal codec that made the tokens.
        wav: begin with a WAV header.
        clock: takes the times.

    Raises:
        TokError: no .tok stream, or of another model.
        CodecError: the codec is not causal.
    """
    clock = clock or Clock()
    reader = TokReader(source, errors="skip")
    plan = plan_for(codec, reader.header)
    decoder = StreamDecoder(codec, batch_size=plan.streams)
    restore = audio.FromModel(plan, reader.header.num_samples)
    speaker = PcmWriter(target, plan.sample_rate, plan.restored_channels, wav=wav)
    fade = Fade(codec.sample_rate)
    late, made, written = codec.delay, 0, 0

    def put(block: Tensor) -> audio.Audio:
        nonlocal late, made
        block, late = block[..., late:], max(0, late - block.shape[-1])
        block = fade(block, made)
        made += block.shape[-1]
        return restore.push(block.cpu().numpy())

    try:
        for codes in _without_gaps(reader, codec, plan.streams, fade):
            with clock.block():
                sound = put(decoder.push(codes))
                speaker.write(sound)
            written += sound.shape[1]
            clock.sound = made / codec.sample_rate
    except KeyboardInterrupt:
        pass
    rest = np.concatenate([put(decoder.flush()), restore.flush()], axis=1)
    total = reader.num_samples
    speaker.write(rest if total is None else rest[:, : max(0, total - written)])


def _without_gaps(reader: TokReader, codec: Codec, streams: int, fade: Fade) -> Iterator[Tensor]:
    """Codes `(S, K, t)`; the last frame stands for those that are lost, and `fade` is told of them."""
    books = len(reader.header.codebook_sizes) // streams
    last, frames = torch.zeros(streams, books, 1, dtype=torch.int64), 0
    for piece in reader:
        if isinstance(piece, Gap):
            # before the first frame there is nothing to fade out
            first = frames * codec.hop if frames else -codec.sample_rate
            fade.gaps[:] = [*fade.gaps[-8:], (first, (frames + piece.frames) * codec.hop)]
            for start in range(0, piece.frames, LOST_AT_A_TIME):
                yield last.expand(-1, -1, min(LOST_AT_A_TIME, piece.frames - start))
            frames += piece.frames
        else:
            codes = torch.from_numpy(piece).unflatten(0, (-1, streams)).transpose(0, 1)
            last = codes[..., -1:]
            frames += codes.shape[-1]
            yield codes
