"""Signals of any length through a codec in bounded memory, with the codes and the samples of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from codec.models.codec import Codec
from codec.models.segments import SegmentedCodec
from codec.nn.signal import in_blocks

Pieces = Callable[[], Iterator[Tensor]]

LOST_AT_A_TIME = 500  # frames
FADE_OUT, FADE_IN = 0.06, 0.02  # seconds


@torch.inference_mode()
def encode_pieces(
    codec: Codec,
    pieces: Pieces,
    *,
    num_codebooks: int | None = None,
    beam: int = 1,
    refine: int = 0,
    at_once: bool = False,
) -> Iterator[Tensor]:
    """Codes `(B, K, t)` of a signal that is given in pieces; joined they are `Codec.encode` of the pieces joined.

    Args:
        codec: causal or not.
        pieces: gives the signal's pieces `(B, C, n)` from its start, each time it is called: a codec that
            normalises over the whole signal hears it several times.
        num_codebooks: use only the first books.
        beam: candidates kept by the search.
        refine: sweeps of coordinate descent after the search.
        at_once: join the pieces first, which is faster for a codec that is not causal and needs the memory.
    """
    if isinstance(codec, SegmentedCodec):
        search = {"num_codebooks": num_codebooks, "beam": beam, "refine": refine}
        yield from codec.encode_segments(pieces(), **search)
        return
    for z in _through(codec.encoder, lambda: _whole_frames(pieces(), codec), at_once):
        yield codec.quantizer.encode(z, num_codebooks=num_codebooks, beam=beam, refine=refine)


@torch.inference_mode()
def decode_pieces(
    codec: Codec,
    pieces: Callable[[], Iterator[Tensor | int]],
    *,
    num_codebooks: int | None = None,
    batch_size: int = 1,
    at_once: bool = False,
) -> Iterator[Tensor]:
    """Audio `(B, C, n)` of codes that are given in pieces; joined it is `Codec.decode` of the pieces joined.

    Args:
        codec: causal or not.
        pieces: gives the pieces `(B, K, t)` from the start, each time it is called. A number stands for so many lost
            frames: the sound before fades out over them.
        num_codebooks: K, all books if not given.
        batch_size: B.
        at_once: join the pieces first.
    """
    fade = Fade(codec.sample_rate)
    frames = 0  # in the pieces so far

    def noted() -> Iterator[Tensor | int]:
        nonlocal frames
        frames = 0
        fade.gaps.clear()
        for piece in pieces():
            count = piece if isinstance(piece, int) else piece.shape[-1]
            if isinstance(piece, int):
                fade.gaps.append(codec.samples_of(frames, frames + count))
            frames += count
            yield piece

    def latents() -> Iterator[Tensor]:
        last = torch.zeros(batch_size, codec.quantizer.dim, 1, device=codec.device)
        for piece in noted():
            if isinstance(piece, int):
                for start in range(0, piece, LOST_AT_A_TIME):
                    yield last.expand(-1, -1, min(LOST_AT_A_TIME, piece - start))
            else:
                z = codec.quantizer.decode(piece)
                last = z[..., -1:] if z.shape[-1] else last
                yield z
        if codec.delay:
            # the last samples come out when as much silence has gone in
            yield last.new_zeros(batch_size, codec.quantizer.dim, -(-codec.delay // codec.hop))

    late, done = codec.delay, 0
    if isinstance(codec, SegmentedCodec):
        blocks = codec.decode_segments(noted(), batch_size=batch_size)
    else:
        blocks = _through(codec.decoder_for(num_codebooks), latents, at_once)
    for block in blocks:
        block, late = block[..., late:], max(0, late - block.shape[-1])
        if codec.delay:
            block = block[..., : frames * codec.hop - done]
        yield fade(block, done)
        done += block.shape[-1]


class Fade:
    """Takes the sound away where frames are lost, and brings it back after them, without clicks.

    Args:
        sample_rate: of the sound, in Hz.

    Attributes:
        gaps: first sample that is lost and first that is there again, each.
    """

    def __init__(self, sample_rate: int) -> None:
        self.gaps: list[tuple[int, int]] = []
        self._out, self._in = round(FADE_OUT * sample_rate), round(FADE_IN * sample_rate)

    def __call__(self, block: Tensor, start: int) -> Tensor:
        """The samples `(B, C, n)` from sample `start` on, faded."""
        now = torch.arange(start, start + block.shape[-1], device=block.device)
        for first, after in self.gaps:
            if first < start + block.shape[-1] and start < after + self._in:
                going, coming = 1 - (now - first) / self._out, (now - after) / self._in
                block = block * torch.where(now < first, 1, torch.maximum(going, coming).clamp(0, 1))
        return block


def _through(module: Callable[..., Tensor], pieces: Pieces, at_once: bool) -> Iterator[Tensor]:
    """The output of `module` for all pieces joined, in one go or in blocks: the same numbers."""
    if not at_once:
        yield from in_blocks(module, pieces)
    elif parts := list(pieces()):
        yield module(torch.cat(parts, dim=-1))


def _whole_frames(pieces: Iterable[Tensor], codec: Codec) -> Iterator[Tensor]:
    """The samples `(B, C, n)` of `pieces` cut between frames; the end is filled up."""
    rest: Tensor | None = None
    hop = codec.hop
    for piece in pieces:
        joined = piece if rest is None else torch.cat([rest, piece], dim=-1)
        frames = joined.shape[-1] // hop
        if frames:
            yield joined[..., : frames * hop]
        rest = joined[..., frames * hop :]
    if rest is not None and rest.shape[-1]:
        yield codec.fill_frame(rest)
