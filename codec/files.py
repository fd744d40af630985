"""Sound files to token files and back: what joins audio, model and bytes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec import audio
from codec.bitstream import RESAMPLERS, Gap, Header, TokReader, TokWriter
from codec.checkpoint import load
from codec.errors import CheckpointError, TokError
from codec.models.codec import Codec
from codec.system import atomic_write

File = str | os.PathLike[str] | BinaryIO
Rows = npt.NDArray[
    np.integer
]  # codes as a token file has them: codebook after codebook, the streams side by side
Progress = Callable[[int, int | None], None]  # samples of the source done, and in all where known

BLOCK_SECONDS = 10  # of audio in memory at a time, whatever the length of the file
AT_ONCE_SECONDS = 30  # up to this length, for codecs that look ahead: quicker, and norms need no measuring
MARGIN_SECONDS = 0.1  # around a part of a file, so that the resampler's filter is filled
LOST_AT_A_TIME = 500  # frames

RESAMPLER_NUMBERS = {name: number for number, name in RESAMPLERS.items()}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `encode_file` wrote.

    Attributes:
        header: of the token file, `num_samples` filled in.
        num_frames: T.
        num_bytes: of the whole file.
        warnings: what is missing from the source or wrong with its sound, a sentence with its number each.
    """

    header: Header
    num_frames: int
    num_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the source."""
        return (self.header.num_samples or 0) / self.header.sample_rate

    @property
    def kbps(self) -> float:
        """Thousand bits per second, counted from the bytes of the file."""
        return 8 * self.num_bytes / self.seconds / 1000


@dataclass(frozen=True, slots=True)
class Decoded:
    """What `decode_file` wrote.

    Attributes:
        header: of the token file, `num_samples` filled in where it is known.
        num_samples: per channel, at the source's rate.
        gaps: first and last second of the source that are lost, each.
    """

    header: Header
    num_samples: int
    gaps: tuple[tuple[float, float], ...]

    @property
    def seconds(self) -> float:
        """Duration of the sound file."""
        return self.num_samples / self.header.sample_rate


def encode_file(
    source: File,
    target: File,
    codec: Codec | None = None,
    *,
    num_codebooks: int | None = None,
    beam: int = 1,
    refine: int = 0,
    channels: str = "mix",
    progress: Progress | None = None,
) -> Encoded:
    """Turn a sound file into a token file.

    Memory does not grow with the length, and the codes are those of the whole file at once. (A codec that normalises
    over the whole signal reads a long file once more for each such layer.)

    Args:
        source: path of a sound file of any rate and channel count, or a binary file.
        target: path of the token file, which appears whole or not at all, or a binary file.
        codec: from `load`; the default model if not given.
        num_codebooks: use the first codebooks only, for a lower bit rate.
        beam: candidates kept by the search.
        refine: sweeps of coordinate descent after the search.
        channels: where the channel count is not the model's: `mix` them, `split` them or `refuse`.
        progress: called after every block.

    Raises:
        AudioError: the source is no sound, or cannot be read or fitted to the model.
        ConfigError: the model has no such number of codebooks.
    """
    codec = codec or load()
    with audio.Reader(source) as reader:
        info = reader.info
        plan = audio.plan(info.sample_rate, info.channels, codec.sample_rate, codec.channels, channels)
        encoder = TokenEncoder(
            codec, plan, info.frames, num_codebooks=num_codebooks, beam=beam, refine=refine
        )
        meter = audio.Meter(
            info.channels
        )  # measures shares and means, which a second reading leaves as they are

        def blocks() -> Iterator[audio.Audio]:
            if reader.position:
                reader.seek(0)
            for block in reader.blocks(BLOCK_SECONDS * info.sample_rate):
                meter.push(block)
                yield block
                if progress is not None:
                    progress(reader.position, info.frames)

        whole = _at_once(codec, info.seconds)
        if not whole:
            encoder.measure(blocks)
        with _opened(target) as file, TokWriter(file, encoder.header) as writer:
            if whole:
                writer.write(encoder.flush(np.concatenate(list(blocks()), axis=1)))
            else:
                for block in blocks():
                    writer.write(encoder.push(block))
                writer.write(encoder.flush())
            writer.num_samples = reader.position
        header = replace(encoder.header, num_samples=reader.position)
        warnings = (*reader.notes, *meter.warnings(mixed=plan.policy == "mix"))
        return Encoded(header, writer.num_frames, writer.bytes_written, warnings)


def decode_file(
    source: File,
    target: File,
    codec: Codec | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    conceal: bool = False,
    format: str | None = None,
    progress: Progress | None = None,
) -> Decoded:
    """Turn a token file back into a sound file of the source's rate and exact length.

    Args:
        source: path of a token file, or a seekable binary file.
        target: path of the sound file (wav, flac, ogg), which appears whole or not at all, or a binary file.
        codec: the model that made the tokens; the default model if not given.
        start: seconds of the source to leave out; a part is decoded without reading the rest of the file.
        duration: seconds to decode; to the end if not given.
        conceal: decode what is left of a damaged file, and fade over what is lost.
        format: of the sound file, where its name does not tell.
        progress: called after every chunk.

    Raises:
        TokError: the file is damaged, of a newer version or of another model, or ends before `start`.
        AudioError: the sound file cannot be written.
    """
    codec = codec or load()
    gaps: list[tuple[float, float]] = []
    errors: Literal["strict", "skip"] = "skip" if conceal else "strict"
    with _opened(source, "rb") as file:
        place = file.tell()
        reader = TokReader(file, errors=errors)
        header, end = reader.header, reader.find_end()
        if header.num_samples is None and end is not None:
            header = replace(header, num_samples=end.samples)
        plan = plan_for(codec, header)
        count = None if duration is None else round(duration * header.sample_rate)
        part = part_of(codec, plan, header.num_samples, round(start * header.sample_rate), count)

        def pieces() -> Iterator[Rows | int]:
            gaps.clear()
            file.seek(place)
            again = TokReader(file, errors=errors)
            for piece in (
                all_pieces(codec, again) if part.whole else again.seek_frames(part.first, part.frames)
            ):
                if not isinstance(piece, Gap):
                    yield piece
                    continue
                lost = codec.samples_of(piece.start, piece.start + piece.frames)
                first, after = (sample / codec.sample_rate for sample in lost)
                if not conceal:
                    raise TokError(
                        f"the sound from {first:.3f} to {after:.3f} s is lost: --conceal decodes the rest"
                    )
                gaps.append((first, after))
                yield from split_gap(piece)

        decoder = TokenDecoder(codec, plan, part.wanted, part.skip_model, part.skip_source)
        with audio.Writer(target, plan.sample_rate, plan.restored_channels, format=format) as writer:
            done = 0

            def put(block: audio.Audio) -> None:
                nonlocal done
                writer.write(block)
                done += block.shape[1]
                if progress is not None:
                    progress(done, part.wanted)

            if _at_once(codec, None if part.wanted is None else part.wanted / plan.sample_rate):
                put(decoder.flush(pieces()))
            else:
                decoder.measure(pieces)
                for piece in pieces():
                    put(decoder.push(piece))
                put(decoder.flush())
    return Decoded(header, done, tuple(gaps))


class TokenEncoder:
    """Sound that arrives in pieces, to the rows of a token file.

    Args:
        codec: which codes it.
        plan: how the sound is fitted to the codec.
        num_samples: of the whole sound, where that is known.
        **search: keywords of `Codec.encode`.

    Attributes:
        header: of the token file.

    Raises:
        ConfigError: the codec has no such number of codebooks.
        CheckpointError: it was not loaded from a file.
    """

    def __init__(self, codec: Codec, plan: audio.Plan, num_samples: int | None = None, **search: Any) -> None:
        self.header = make_header(codec, plan, num_samples, search.get("num_codebooks"))
        self._plan = plan
        self._fit = audio.ToModel(plan)
        self._stream = codec.encoder_stream(plan.streams, **search)

    @property
    def latency(self) -> float:
        """Samples of the model after a frame's own that must have arrived before its codes are given."""
        return self._stream.latency

    def push(self, block: audio.Audio) -> Rows:
        """Take samples `(C, n)` of the source, give the codes `(K * S, t)` that are complete by now."""
        return _rows(self._stream.push(torch.from_numpy(self._fit.push(block))))

    def flush(self, block: audio.Audio | None = None) -> Rows:
        """Take the last samples, give the last codes; see `EncoderStream.flush`."""
        last = [] if block is None else [self._fit.push(block)]
        return _rows(self._stream.flush(torch.from_numpy(np.concatenate([*last, self._fit.flush()], axis=2))))

    def measure(self, blocks: Callable[[], Iterable[audio.Audio]]) -> None:
        """Hear the whole sound first, where the codec must; `blocks` gives it from its start at each call."""

        def pieces() -> Iterator[Tensor]:
            fit = audio.ToModel(self._plan)
            for block in blocks():
                yield torch.from_numpy(fit.push(block))
            yield torch.from_numpy(fit.flush())

        self._stream.measure(pieces)


class TokenDecoder:
    """Rows of a token file that arrive in pieces, to sound at the source's rate.

    Args:
        codec: which made the tokens.
        plan: how the source was fitted to the codec.
        num_samples: of the source, to be given in all, where that is known.
        skip_model: samples of the model to leave out at the start of what is decoded.
        skip_source: samples of the source to leave out after them.
    """

    def __init__(
        self,
        codec: Codec,
        plan: audio.Plan,
        num_samples: int | None = None,
        skip_model: int = 0,
        skip_source: int = 0,
    ) -> None:
        self._plan = plan
        self._stream = codec.decoder_stream(plan.streams)
        self._restore = audio.FromModel(plan, None if num_samples is None else skip_source + num_samples)
        self._skip_model = codec.delay + skip_model
        self._skip_source = skip_source

    @property
    def latency(self) -> float:
        """Samples of the model that the sound lags."""
        return self._stream.latency

    def push(self, piece: Rows | int) -> audio.Audio:
        """Take codes `(K * S, t)`, or a number of lost frames, give the samples `(C, n)` that are complete by now."""
        return self._heard(self._restore.push(self._decode(piece)))

    def flush(self, pieces: Iterable[Rows | int] = ()) -> audio.Audio:
        """Take the last pieces, give the last samples; see `DecoderStream.flush`."""
        codes = [piece if isinstance(piece, int) else self._codes(piece) for piece in pieces]
        rest = self._restore.push(self._cut(self._stream.flush(codes)))
        return self._heard(np.concatenate([rest, self._restore.flush()], axis=1))

    def measure(self, pieces: Callable[[], Iterable[Rows | int]]) -> None:
        """Go through the whole file first, where the codec must; `pieces` gives it from its start at each call."""
        self._stream.measure(
            lambda: (piece if isinstance(piece, int) else self._codes(piece) for piece in pieces())
        )

    def _decode(self, piece: Rows | int) -> audio.Audio:
        if isinstance(piece, int):
            return self._cut(self._stream.lost(piece))
        return self._cut(self._stream.push(self._codes(piece)))

    def _codes(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).unflatten(0, (-1, self._plan.streams)).transpose(0, 1)

    def _cut(self, block: Tensor) -> audio.Audio:
        kept = block[..., self._skip_model :]
        self._skip_model -= block.shape[-1] - kept.shape[-1]
        return kept.cpu().numpy()

    def _heard(self, block: audio.Audio) -> audio.Audio:
        kept = block[:, self._skip_source :]
        self._skip_source -= block.shape[1] - kept.shape[1]
        return kept


def _rows(codes: Tensor) -> Rows:
    return codes.transpose(0, 1).flatten(0, 1).cpu().numpy()


def all_pieces(codec: Codec, reader: TokReader) -> Iterator[Rows | Gap]:
    """The codes `(K * S, t)` and gaps of a token file, also the gap that follows where its end is lost."""
    at = 0
    for piece in reader:
        yield piece
        at += piece.frames if isinstance(piece, Gap) else piece.shape[1]
    header = reader.header
    if reader.end is None and header.num_samples is not None:
        samples = -(-header.num_samples * header.model_sample_rate // header.sample_rate)
        missing = codec.num_frames(samples) - at
        if missing > 0:
            yield Gap(at, missing, 0)


def split_gap(gap: Gap) -> Iterator[int]:
    """The lost frames of a gap, a bounded number at a time."""
    for start in range(0, gap.frames, LOST_AT_A_TIME):
        yield min(LOST_AT_A_TIME, gap.frames - start)


@dataclass(frozen=True, slots=True)
class Part:
    """What to decode for a part of the source.

    Attributes:
        whole: all of it.
        first: frame to begin with, early enough for the decoder's receptive field.
        frames: how many; None for all.
        skip_model: samples of the model to drop at the start of what is decoded.
        skip_source: samples to drop after resampling.
        wanted: samples of the source that are left then; None where nobody knows.
    """

    whole: bool
    first: int
    frames: int | None
    skip_model: int
    skip_source: int
    wanted: int | None


def part_of(codec: Codec, plan: audio.Plan, total: int | None, start: int, count: int | None) -> Part:
    """What to decode for the `count` samples of the source from `start` on; None for the rest.

    Args:
        codec: which made the tokens.
        plan: how the source was fitted to the codec.
        total: samples of the source, where known.
        start: first sample.
        count: how many.

    Raises:
        TokError: the source ends before.
    """
    rate, model_rate = plan.sample_rate, plan.model_rate
    if total is not None:
        if start >= total > 0:
            raise TokError(f"the recording ends after {total / rate:.3f} s, before {start / rate:.3f} s")
        count = total - start if count is None else min(count, total - start)
    if start == 0 and count == total:
        return Part(True, 0, None, 0, 0, count)
    margin = 0 if rate == model_rate else round(MARGIN_SECONDS * model_rate)
    # a sample of the model that is also one of the source, for the resampler to begin with
    grid = model_rate // math.gcd(rate, model_rate)
    begin = max(0, start * model_rate // rate - margin) // grid * grid
    stop = None if count is None else -(-(start + count) * model_rate // rate) + margin
    first, frames, sample = codec.frames_for(begin, stop)
    return Part(False, first, frames, begin - sample, start - begin * rate // model_rate, count)


def make_header(
    codec: Codec, plan: audio.Plan, num_samples: int | None = None, num_codebooks: int | None = None
) -> Header:
    """The header of a token file of `codec` for a source that `plan` fits to it.

    Raises:
        CheckpointError: the codec was not loaded from a file, so nothing could tell later which model it was.
    """
    if "fingerprint" not in codec.metadata:
        raise CheckpointError(
            "this codec has no fingerprint: write it with codec.checkpoint.save and use what codec.load gives"
        )
    sizes, streams = codec.quantizer.codebook_sizes[: codec.legal(num_codebooks)], plan.streams
    policy = (
        "split"
        if plan.policy == "split"
        else "joint"
        if plan.policy == "keep" and plan.channels > 1
        else "mix"
    )
    return Header(
        fingerprint=bytes.fromhex(codec.metadata["fingerprint"]),
        sample_rate=plan.sample_rate,
        channels=plan.channels,
        hop=codec.hop,
        # codebook after codebook, the streams side by side
        codebook_sizes=tuple(size for size in sizes for _ in range(streams)),
        num_samples=num_samples,
        model_sample_rate=codec.sample_rate,
        channel_policy=policy,
        resampler=RESAMPLER_NUMBERS[plan.resampler],
    )


def plan_for(codec: Codec, header: Header) -> audio.Plan:
    """How the audio of a token file was fitted to `codec`.

    Raises:
        TokError: the file is of another model.
    """
    ours, theirs = codec.metadata.get("fingerprint"), header.fingerprint.hex()
    if ours != theirs:
        raise TokError(
            f"these tokens are of the model {theirs}, and this is the model {ours}: choose it with --model"
        )
    policy = "split" if header.channel_policy == "split" else "mix"
    plan = audio.plan(header.sample_rate, header.channels, codec.sample_rate, codec.channels, policy)
    count = len(header.codebook_sizes) // plan.streams
    if count not in codec.quantizer.prefixes or header != replace(
        make_header(codec, plan, header.num_samples, count), resampler=header.resampler
    ):
        raise TokError("the header names this model but describes a stream that it does not make")
    return plan


def _at_once(codec: Codec, seconds: float | None) -> bool:
    """Whether a file goes through a codec that looks ahead in one go: faster, while it fits into memory."""
    return not codec.causal and seconds is not None and seconds <= AT_ONCE_SECONDS


def _opened(file: File, mode: str = "wb") -> AbstractContextManager[BinaryIO]:
    if not isinstance(file, str | os.PathLike):
        return nullcontext(file)
    return atomic_write(file) if mode == "wb" else open(file, "rb")
