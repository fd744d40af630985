"""Signals of any length through a codec in bounded memory, with the codes and the samples of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.models.codec import Codec
from codec.nn.signal import in_blocks

Pieces = Callable[[], Iterator[Tensor]]


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
    for z in _through(codec.encoder, lambda: _whole_frames(pieces(), codec.hop), at_once):
        yield codec.quantizer.encode(z, num_codebooks=num_codebooks, beam=beam, refine=refine)


@torch.inference_mode()
def decode_pieces(codec: Codec, pieces: Pieces, *, at_once: bool = False) -> Iterator[Tensor]:
    """Audio `(B, C, n)` of codes that are given in pieces; joined it is `Codec.decode` of the pieces joined.

    Args:
        codec: causal or not.
        pieces: gives the pieces `(B, K, t)` from the start, each time it is called.
        at_once: join the pieces first.
    """
    samples = 0  # that the codes so far stand for

    def latents() -> Iterator[Tensor]:
        nonlocal samples
        samples, batch = 0, 1
        for codes in pieces():
            batch = codes.shape[0]
            samples += codes.shape[-1] * codec.hop
            yield codec.quantizer.decode(codes)
        if codec.delay:
            # the last samples come out when as much silence has gone in
            yield torch.zeros(batch, codec.quantizer.dim, -(-codec.delay // codec.hop), device=codec.device)

    late, done = codec.delay, 0
    for block in _through(codec.decoder, latents, at_once):
        block, late = block[..., late:], max(0, late - block.shape[-1])
        block = block[..., : samples - done]
        done += block.shape[-1]
        yield block


def _through(module: nn.Module, pieces: Pieces, at_once: bool) -> Iterator[Tensor]:
    """The output of `module` for all pieces joined, in one go or in blocks: the same numbers."""
    if not at_once:
        yield from in_blocks(module, pieces)
    elif parts := list(pieces()):
        yield module(torch.cat(parts, dim=-1))


def _whole_frames(pieces: Iterable[Tensor], hop: int) -> Iterator[Tensor]:
    """The samples `(B, C, n)` of `pieces` cut between frames; the end is filled up with silence."""
    rest: Tensor | None = None
    for piece in pieces:
        joined = piece if rest is None else torch.cat([rest, piece], dim=-1)
        frames = joined.shape[-1] // hop
        if frames:
            yield joined[..., : frames * hop]
        rest = joined[..., frames * hop :]
    if rest is not None and rest.shape[-1]:
        yield F.pad(rest, (0, hop - rest.shape[-1]))
