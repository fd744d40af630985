"""A token file as a codec wants it: checked against the codec, whole or in part, its gaps noted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

import torch
from torch import Tensor

from codec.bitstream import Gap, TokReader
from codec.errors import TokError
from codec.headers import plan_for
from codec.models.codec import Codec

MARGIN = 0.1  # seconds around a part, so that the resampler's filter is filled


@dataclass(frozen=True, slots=True)
class Part:
    """What to decode for a part of the source.

    Attributes:
        first: frame to begin with, early enough for the decoder to hear what it needs.
        frames: how many; None for all.
        skip_model: samples of the model to drop at the start of what is decoded.
        skip_source: samples to drop after resampling.
        wanted: samples of the source that are left then; None where nobody knows.
    """

    first: int
    frames: int | None
    skip_model: int
    skip_source: int
    wanted: int | None


class TokenSource:
    """The codes of a token file for a codec.

    Args:
        file: seekable, read from where it stands.
        codec: the model that made the tokens.
        conceal: read around damage instead of refusing it.

    Attributes:
        header: with `num_samples` filled in where it is known.
        plan: how the source was fitted to the codec.
        gaps: seconds of the source that were found to be lost, first and last.

    Raises:
        TokError: no token file, or of another model.
    """

    def __init__(self, file: BinaryIO, codec: Codec, *, conceal: bool = False) -> None:
        self._file = file
        self._start = file.tell()
        self._errors: Literal["strict", "skip"] = "skip" if conceal else "strict"
        self._codec = codec
        reader = TokReader(file, errors=self._errors)
        self.plan = plan_for(codec, reader.header)
        samples, end = reader.header.num_samples, reader.find_end()
        if samples is None and end is not None:
            samples = end.samples
        self.header = replace(reader.header, num_samples=samples)
        self.gaps: list[tuple[float, float]] = []

    def part(self, start: int, count: int | None) -> Part:
        """What to decode for the `count` samples of the source from `start` on; None for the rest.

        Raises:
            TokError: the source ends before.
        """
        rate, model_rate = self.plan.sample_rate, self.plan.model_rate
        total = self.header.num_samples
        if total is not None:
            if start >= total > 0:
                raise TokError(f"the recording ends after {total / rate:.3f} s, before {start / rate:.3f} s")
            count = total - start if count is None else min(count, total - start)
        if start == 0 and count == total:
            return Part(0, None, 0, 0, count)
        margin = 0 if rate == model_rate else round(MARGIN * model_rate)
        # a sample of the model that is also one of the source, for the resampler to begin with
        grid = model_rate // math.gcd(rate, model_rate)
        begin = max(0, start * model_rate // rate - margin) // grid * grid
        stop = None if count is None else -(-(start + count) * model_rate // rate) + margin
        first, frames, sample = self._codec.frames_for(begin, stop)
        return Part(first, frames, begin - sample, start - begin * rate // model_rate, count)

    def pieces(self, part: Part) -> Iterator[Tensor | int]:
        """The codes `(S, K, t)` of a part, S streams of the model; numbers stand for so many lost frames.

        Raises:
            TokError: damage, unless it is to be concealed.
        """
        self.gaps.clear()
        self._file.seek(self._start)
        reader = TokReader(self._file, errors=self._errors)
        at = part.first
        whole = part.first == 0 and part.frames is None
        for piece in reader if whole else reader.seek_frames(part.first, part.frames):
            if isinstance(piece, Gap):
                yield self._lost(piece.start, piece.frames)
                at = piece.start + piece.frames
            else:
                codes = torch.from_numpy(piece).unflatten(0, (-1, self.plan.streams)).transpose(0, 1)
                yield codes.to(self._codec.device)
                at += piece.shape[1]
        if whole and reader.end is None and self.header.num_samples is not None:
            samples = -(-self.header.num_samples * self.plan.model_rate // self.plan.sample_rate)
            missing = self._codec.num_frames(samples) - at
            if missing > 0:
                yield self._lost(at, missing)

    def _lost(self, start: int, frames: int) -> int:
        first, after = (
            sample / self.plan.model_rate for sample in self._codec.samples_of(start, start + frames)
        )
        if self._errors == "strict":
            raise TokError(f"the sound from {first:.3f} to {after:.3f} s is lost: --conceal decodes the rest")
        self.gaps.append((first, after))
        return frames
