"""From sound files to token files and back: the only code that joins audio, model and bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from codec import assets, audio, checkpoint
from codec.bitstream import Header, TokReader, TokWriter, atomic_write
from codec.bitstream.header import RESAMPLERS
from codec.errors import AudioError, CheckpointError, ConfigError, TokError
from codec.long import decode_pieces, encode_pieces
from codec.models.codec import Codec

T = TypeVar("T")
File = str | os.PathLike[str] | BinaryIO
Progress = Callable[[int, int | None], None]  # samples of the source done, and in all where known

BLOCK_SECONDS = 10  # of audio in memory at a time, whatever the length of the file
AT_ONCE_SECONDS = 30  # up to this length, for codecs that are not causal
RESAMPLER_NUMBERS = {name: number for number, name in RESAMPLERS.items()}


@dataclass(frozen=True, slots=True)
class Encoded:
    """What `encode_file` wrote.

    Attributes:
        header: of the token file, `num_samples` filled in.
        num_frames: T.
        num_bytes: of the whole file.
    """

    header: Header
    num_frames: int
    num_bytes: int

    @property
    def seconds(self) -> float:
        """Duration of the source."""
        return (self.header.num_samples or 0) / self.header.sample_rate

    @property
    def kbps(self) -> float:
        """Thousand bits per second, counted from the bytes of the file."""
        return 8 * self.num_bytes / self.seconds / 1000


def load(name_or_path: str | os.PathLike[str] = "default") -> Codec:
    """A codec ready for use, in evaluation mode on the CPU; `codec.metadata` says where its weights come from.

    Args:
        name_or_path: `default` or another model that comes with the package, or the path of a `.safetensors` file.

    Raises:
        CheckpointError: no such model, or not a whole and fitting weights file.
        ConfigError: the file describes parts that do not exist here.
    """
    codec, metadata = checkpoint.load(find(name_or_path))
    codec.metadata = metadata
    return codec


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The weights file that `load` would read.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name_or_path)
    inside = assets.weights() / f"{path}.safetensors"
    if path.name == str(path) and inside.is_file():
        return inside
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in assets.weights().glob("*.safetensors"))) or "none here"
        raise CheckpointError(
            f"there is no model {str(name_or_path)!r}: give the path of a .safetensors file or a name ({names})"
        )
    return path


def codebooks_for(codec: Codec, kbps: float) -> int:
    """The largest number of codebooks whose bit rate is at most `kbps` thousand bits per second.

    Raises:
        ConfigError: even the smallest needs more.
    """
    prefixes = codec.quantizer.prefixes
    fitting = [count for count in prefixes if codec.bitrate(count) <= kbps * 1000 + 1e-6]
    if not fitting:
        lowest = codec.bitrate(prefixes[0]) / 1000
        raise ConfigError(
            f"the lowest bit rate of this model is {lowest:g} kbps, more than the {kbps:g} asked for"
        )
    return fitting[-1]


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
    over the whole signal reads a long file once for each such layer.)

    Args:
        source: path of a sound file of any rate and channel count, or a binary file.
        target: path of the token file, which appears whole or not at all, or a binary file.
        codec: from `load`; the default model if not given.
        num_codebooks: use the first books only, for a lower bit rate.
        beam: candidates kept by the search.
        refine: sweeps of coordinate descent after the search.
        channels: where the channel count is not the model's: `mix` them, `split` them or `refuse`.
        progress: called after every block.

    Raises:
        AudioError: the source is no sound, or cannot be read or fitted to the model.
        ConfigError: the model has no such number of codebooks.
    """
    codec = codec or load()
    num_codebooks = _legal(codec, num_codebooks)
    with audio.Reader(source) as reader:
        info = reader.info
        plan = audio.plan(info.sample_rate, info.channels, codec.sample_rate, codec.channels, channels)
        # an MP3 header may only estimate the length; the end of the token file then tells it
        known = None if info.format == "MPEG" else info.frames
        header = make_header(codec, plan, known, num_codebooks)

        def pieces() -> Iterator[Tensor]:
            if reader.position:
                reader.seek(0)
            fit = audio.ToModel(plan)
            for piece in chain(map(fit.push, _blocks(reader, progress)), _last(fit.flush)):
                yield torch.from_numpy(piece).to(codec.device)

        whole = _at_once(codec, info.seconds)
        with _opened(target) as file, TokWriter(file, header) as writer:
            for codes in encode_pieces(
                codec, pieces, num_codebooks=num_codebooks, beam=beam, refine=refine, at_once=whole
            ):
                # book after book, the streams side by side
                writer.write(codes.transpose(0, 1).flatten(0, 1).cpu().numpy())
            if known is not None and reader.position != known:
                raise AudioError(f"{reader.name}: is cut: it ends after {reader.position} of {known} samples")
            writer.num_samples = reader.position
        return Encoded(replace(header, num_samples=reader.position), writer.num_frames, writer.bytes_written)


def decode_file(
    source: File,
    target: File,
    codec: Codec | None = None,
    *,
    format: str | None = None,
    progress: Progress | None = None,
) -> Header:
    """Turn a token file back into a sound file of the source's rate and exact length.

    Args:
        source: path of a token file, or a seekable binary file.
        target: path of the sound file (wav, flac, ogg), which appears whole or not at all, or a binary file.
        codec: the model that made the tokens; the default model if not given.
        format: of the sound file, where its name does not tell.
        progress: called after every chunk.

    Returns:
        The header, `num_samples` filled in.

    Raises:
        TokError: the file is damaged, of a newer version or of another model.
        AudioError: the sound file cannot be written.
    """
    codec = codec or load()
    with _opened(source, "rb") as file:
        start = file.tell()
        reader = TokReader(file)
        plan = plan_for(codec, reader.header)
        header = replace(reader.header, num_samples=reader.num_samples)
        seconds = None if header.num_samples is None else header.num_samples / header.sample_rate
        restore = audio.FromModel(plan, header.num_samples)

        def pieces() -> Iterator[Tensor]:
            file.seek(start)
            for chunk in TokReader(file):
                if isinstance(chunk, np.ndarray):
                    codes = torch.from_numpy(chunk).unflatten(0, (-1, plan.streams)).transpose(0, 1)
                    yield codes.to(codec.device)

        with audio.Writer(target, plan.sample_rate, plan.restored_channels, format=format) as writer:
            done = 0
            for block in decode_pieces(codec, pieces, at_once=_at_once(codec, seconds)):
                writer.write(restore.push(block.cpu().numpy()))
                done += block.shape[-1]
                if progress is not None:
                    progress(round(done * plan.sample_rate / plan.model_rate), header.num_samples)
            _check_length(header, done)
            writer.write(restore.flush())
    return header


def make_header(
    codec: Codec, plan: audio.Plan, num_samples: int | None = None, num_codebooks: int | None = None
) -> Header:
    """The header of a token file of `codec` for a source that `plan` fits to it.

    Raises:
        CheckpointError: the codec was not loaded from a file, so nothing could tell later which model it was.
    """
    if "fingerprint" not in codec.metadata:
        raise CheckpointError(
            "this codec has no fingerprint: save it with codec.checkpoint.save and load that"
        )
    sizes = codec.quantizer.codebook_sizes[: _legal(codec, num_codebooks)]
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
        codebook_sizes=tuple(size for size in sizes for _ in range(plan.streams)),
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


def _legal(codec: Codec, num_codebooks: int | None) -> int:
    prefixes = codec.quantizer.prefixes
    if num_codebooks is None:
        return prefixes[-1]
    if num_codebooks not in prefixes:
        raise ConfigError(
            f"this model has no {num_codebooks} codebooks; it has {', '.join(map(str, prefixes))}"
        )
    return num_codebooks


def _at_once(codec: Codec, seconds: float | None) -> bool:
    """Whether a file goes through a codec that looks ahead in one go: faster, while it fits into memory."""
    return not codec.causal and seconds is not None and seconds <= AT_ONCE_SECONDS


def _blocks(reader: audio.Reader, progress: Progress | None) -> Iterator[audio.Audio]:
    for block in reader.blocks(BLOCK_SECONDS * reader.info.sample_rate):
        yield block
        if progress is not None:
            progress(reader.position, reader.info.frames)


def _last(make: Callable[[], T]) -> Iterator[T]:
    """One item, made when all before it are used up."""
    yield make()


def _check_length(header: Header, decoded: int) -> None:
    """A file whose header promises more than its frames hold was not made by this program."""
    if header.num_samples is None:
        return
    needed = header.num_samples * header.model_sample_rate // header.sample_rate
    if decoded < needed:
        raise TokError(f"the file holds {decoded} samples of audio and promises {needed}")


def _opened(file: File, mode: str = "wb") -> AbstractContextManager[BinaryIO]:
    if not isinstance(file, str | os.PathLike):
        return nullcontext(file)
    return atomic_write(file) if mode == "wb" else open(file, "rb")
