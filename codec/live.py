"""Live links: sound from a pipe to token packets, and token packets to sound, frame by frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

from codec import audio
from codec.audio.pcm import PcmReader, PcmWriter
from codec.bitstream import Gap, TokReader, TokWriter
from codec.errors import CodecError
from codec.files import TokenDecoder, TokenEncoder, all_pieces, plan_for, split_gap
from codec.models.codec import Codec
from codec.nn.signal import NOT_LIVE


class Clock:
    """Measures what a live link costs: seconds of computing for each block, against the sound it stands for."""

    def __init__(self) -> None:
        self.waits = ""  # what must be waited for before computing can begin
        self.spent: list[float] = []
        self.sound = 0.0

    @contextmanager
    def block(self, sample_rate: int, samples: int) -> Iterator[None]:
        """One block of so many samples, from its arrival until its result is handed on."""
        start = time.perf_counter()
        yield
        self.spent.append(time.perf_counter() - start)
        self.sound += samples / sample_rate

    def report(self) -> str:
        """One line: the delays that add up to the latency, and the real-time factor."""
        if not self.spent or not self.sound:
            return "nothing came"
        median, slow = (1000 * float(np.quantile(self.spent, q)) for q in (0.5, 0.99))
        return (
            f"{self.waits} + computing {median:.2f} ms (99 in 100 below {slow:.2f} ms); "
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
) -> list[str]:
    """Encode sound as it arrives; every frame leaves as a packet of its own.

    Args:
        source: WAV or bare 16-bit samples; another sound file is read to its end first.
        target: gets a .tok stream, flushed frame by frame.
        codec: one that does not normalise over the whole signal; if it looks ahead, packets leave late.
        sample_rate: of bare samples; the codec's by default.
        channels: of bare samples; the codec's by default.
        num_codebooks: use the first codebooks only.
        policy: for channels that do not fit.
        clock: takes the times.

    Returns:
        What is missing from the source or wrong with its sound, a sentence each.

    Raises:
        AudioError: the source is no sound that can be read.
        CodecError: the codec normalises over the whole signal.
    """
    _refuse_normalising(codec)
    clock = clock or Clock()
    sound = PcmReader(
        source, sample_rate=sample_rate or codec.sample_rate, channels=channels or codec.channels
    )
    plan = audio.plan(sound.sample_rate, sound.channels, codec.sample_rate, codec.channels, policy)
    encoder = TokenEncoder(codec, plan, num_codebooks=num_codebooks)
    clock.waits = f"frame {1000 * codec.hop / codec.sample_rate:g} ms"
    if encoder.latency:
        clock.waits += f" + look-ahead {1000 * encoder.latency / codec.sample_rate:g} ms"
    meter = audio.Meter(sound.channels)
    with TokWriter(target, encoder.header, frames_per_chunk=1, index=False) as writer:
        try:
            for block in sound:
                meter.push(block)
                with clock.block(sound.sample_rate, block.shape[1]):
                    writer.write(encoder.push(block))
        except KeyboardInterrupt:
            pass  # the end of a recording, not of the file
        writer.write(encoder.flush())
        writer.num_samples = sound.position
    return [*sound.notes, *meter.warnings(mixed=plan.policy == "mix")]


def decode_live(
    source: BinaryIO, target: BinaryIO, codec: Codec, *, wav: bool = True, clock: Clock | None = None
) -> None:
    """Decode token packets as they arrive.

    The sound is that of `codec.files.decode_file(..., conceal=True)`, whatever is lost. (Only where the codec has no
    delay may the padding of the last frame have been heard before the end record tells that it is none of the sound.)

    Args:
        source: a .tok stream.
        target: gets 16-bit sound, flushed block by block.
        codec: the codec that made the tokens.
        wav: begin with a WAV header.
        clock: takes the times.

    Raises:
        TokError: no .tok stream, or of another model.
        CodecError: the codec normalises over the whole signal.
    """
    _refuse_normalising(codec)
    clock = clock or Clock()
    reader = TokReader(source, errors="skip")
    plan = plan_for(codec, reader.header)
    decoder = TokenDecoder(codec, plan, reader.header.num_samples)
    clock.waits = f"lag {1000 * decoder.latency / codec.sample_rate:g} ms"
    speaker = PcmWriter(target, plan.sample_rate, plan.restored_channels, wav=wav)
    written = 0
    try:
        for piece in all_pieces(codec, reader):
            for part in split_gap(piece) if isinstance(piece, Gap) else [piece]:
                frames = part if isinstance(part, int) else part.shape[1]
                with clock.block(codec.sample_rate, frames * codec.hop):
                    sound = decoder.push(part)
                    speaker.write(sound)
                written += sound.shape[1]
    except KeyboardInterrupt:
        pass
    # where the end is cut off the decoder goes by the header, over frames that never came
    rest, total = decoder.flush(), reader.num_samples if reader.end else None
    speaker.write(rest if total is None else rest[:, : max(0, total - written)])


def _refuse_normalising(codec: Codec) -> None:
    if codec.normalises:
        raise CodecError(NOT_LIVE)
