"""From sound files to token files and back: the only code that joins audio, model and bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch
from torch import Tensor

from codec import assets, audio, checkpoint
from codec.bitstream import Header, TokWriter
from codec.build import Allow
from codec.errors import AudioError, CheckpointError, ConfigError
from codec.headers import legal, make_header
from codec.long import decode_pieces, encode_pieces
from codec.models.codec import Codec
from codec.system import atomic_write
from codec.tokens import TokenSource

T = TypeVar("T")
File = str | os.PathLike[str] | BinaryIO
Progress = Callable[[int, int | None], None]  # samples of the source done, and in all where known

BLOCK_SECONDS = 10  # of audio in memory at a time, whatever the length of the file
AT_ONCE_SECONDS = 30  # up to this length, for codecs that are not causal


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


def load(name_or_path: str | os.PathLike[str] = "default", *, allow: Allow = ()) -> Codec:
    """A codec ready for use, in evaluation mode on the CPU; `codec.metadata` says where its weights come from.

    Args:
        name_or_path: `default` or another model that comes with the package, or the path of a `.safetensors` file.
        allow: import paths, modules or packages of parts from outside this package that the file may name; nothing
            else is imported.

    Raises:
        CheckpointError: no such model, or not a whole and fitting weights file.
        ConfigError: the file describes parts that do not exist here or are not allowed.
    """
    codec, metadata = checkpoint.load(find(name_or_path), allow=allow)
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
    num_codebooks = legal(codec, num_codebooks)
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
    with _opened(source, "rb") as file:
        tokens = TokenSource(file, codec, conceal=conceal)
        plan, rate = tokens.plan, tokens.header.sample_rate
        part = tokens.part(round(start * rate), None if duration is None else round(duration * rate))
        at_once = _at_once(codec, None if part.wanted is None else part.wanted / rate)
        restore = audio.FromModel(plan, None if part.wanted is None else part.skip_source + part.wanted)
        skip_model, skip_source, done = part.skip_model, part.skip_source, 0

        def put(block: audio.Audio) -> None:
            nonlocal skip_source, done
            kept = block[:, skip_source:]
            skip_source -= block.shape[1] - kept.shape[1]
            writer.write(kept)
            done += kept.shape[1]
            if progress is not None:
                progress(done, part.wanted)

        with audio.Writer(target, plan.sample_rate, plan.restored_channels, format=format) as writer:
            pieces = partial(tokens.pieces, part)
            books = len(tokens.header.codebook_sizes) // plan.streams
            for block in decode_pieces(
                codec, pieces, num_codebooks=books, batch_size=plan.streams, at_once=at_once
            ):
                kept = block[..., skip_model:]
                skip_model -= block.shape[-1] - kept.shape[-1]
                put(restore.push(kept.cpu().numpy()))
            put(restore.flush())
    return Decoded(tokens.header, done, tuple(tokens.gaps))


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


def _opened(file: File, mode: str = "wb") -> AbstractContextManager[BinaryIO]:
    if not isinstance(file, str | os.PathLike):
        return nullcontext(file)
    return atomic_write(file) if mode == "wb" else open(file, "rb")
