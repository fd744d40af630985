"""A voice link, frame by frame: latency, its ratio to whole-file coding, and whether memory stays where it is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codec import checkpoint, system
from codec.bench.speed import clip_of
from codec.models.latent import DecoderStream, EncoderStream
from codec.ops.threads import threads

SETTLE = 50  # frames that are not measured: the first ones allocate
BLOCK = 10.0  # seconds, about, after which the same sound is coded at once


@dataclass(frozen=True, slots=True)
class Link:
    """What a stream took, one thread.

    Attributes:
        frames: that were measured.
        frame_ms: length of one.
        encode_ms: median and 99th percentile of the time from the last sample of a frame to its tokens.
        decode_ms: the same from tokens to samples.
        both_ms: the same of the two together.
        offline: median, over blocks of frames, of the stream's time over that of the same block coded at once.
        start_mb: resident memory when the measurement began.
        growth_mb: what was added by its end.
    """

    frames: int
    frame_ms: float
    encode_ms: tuple[float, float]
    decode_ms: tuple[float, float]
    both_ms: tuple[float, float]
    offline: float
    start_mb: float
    growth_mb: float


@torch.inference_mode()
def measure(model: str, clip: str, *, seconds: float = 60.0) -> Link:
    """Stream a recording through a codec on one thread, coding each ten seconds or so at once in between.

    Args:
        model: name or path of a causal codec.
        clip: sound file; a shorter one is repeated.
        seconds: that are streamed, in whole blocks of that.

    Raises:
        AudioError: the clip cannot be read.
        CheckpointError: there is no such model.
        CodecError: the codec looks ahead.
    """
    codec = checkpoint.load(model)
    with threads(1):
        encoder, decoder = EncoderStream(codec), DecoderStream(codec)
        size = max(2 * SETTLE, round(BLOCK * codec.frame_rate))
        block = clip_of(codec, clip, size * codec.hop / codec.sample_rate)
        blocks: list[np.ndarray] = []
        ratios: list[float] = []
        start = 0.0
        for number in range(max(1, round(seconds * codec.frame_rate / size))):
            times = np.array([_frame(encoder, decoder, frame) for frame in block.split(codec.hop, dim=-1)])
            began = time.perf_counter()
            codec.decode(codec.encode(block))
            offline = time.perf_counter() - began
            if number == 0:
                start = system.memory() / 1e6
                times = times[SETTLE:]
                offline *= len(times) / size
            ratios.append(times.sum() / offline)
            blocks.append(times)
        growth = system.memory() / 1e6 - start
    encode, decode = np.concatenate(blocks).T * 1000
    return Link(
        len(encode),
        1000 * codec.hop / codec.sample_rate,
        _ends(encode),
        _ends(decode),
        _ends(encode + decode),
        float(np.median(ratios)),
        start,
        growth,
    )


def _frame(encoder: EncoderStream, decoder: DecoderStream, frame: Tensor) -> tuple[float, float]:
    began = time.perf_counter()
    codes = encoder.push(frame)
    middle = time.perf_counter()
    decoder.push(codes)
    return middle - began, time.perf_counter() - middle


def _ends(values: np.ndarray) -> tuple[float, float]:
    return float(np.median(values)), float(np.percentile(values, 99))
