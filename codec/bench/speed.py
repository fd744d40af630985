"""Speed of a codec on this machine: real-time factors, streaming latency, start-up, memory, one training step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from codec import audio, checkpoint
from codec.bench.timing import Work, in_turn
from codec.errors import CodecError
from codec.models.codec import Codec
from codec.models.latent import DecoderStream, EncoderStream
from codec.ops.threads import threads

REPEATS = 3
# the whole way of a user, in a fresh interpreter that prints what it took at most
_START = """
import io, sys, time
began = time.perf_counter()
from codec import checkpoint, files
codec = checkpoint.load(sys.argv[1])
loaded = time.perf_counter() - began
tokens, sound = io.BytesIO(), io.BytesIO()
files.encode_file(sys.argv[2], tokens, codec)
tokens.seek(0)
files.decode_file(tokens, sound, codec, format="wav")
print(loaded, time.perf_counter() - began)
"""
_PEAK = """
from codec import system
print(system.peak_memory() / 1e6)
"""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured number.

    Attributes:
        what: was measured.
        setting: threads, batch, codebooks.
        value: the number, larger is better only where the unit is `x`.
        unit: `x` (times faster than real time), `ms`, `s` or `MB`.
    """

    what: str
    setting: str
    value: float
    unit: str


def measure(
    model: str,
    clip: str,
    *,
    thread_counts: Sequence[int] = (1, 2),
    batches: Sequence[int] = (1, 4),
    seconds: float = 5.0,
) -> Iterator[Measurement]:
    """Measure one model, one setting after the other in this process; each figure is the best of three.

    Args:
        model: name or path.
        clip: sound file that is coded; music or speech does not matter, its length does.
        thread_counts: numbers of threads to try.
        batches: numbers of equal clips at once.
        seconds: of the clip.

    Raises:
        CheckpointError: there is no such model.
        AudioError: the clip cannot be read.
    """
    codec = checkpoint.load(model)
    signal = clip_of(codec, clip, seconds)
    for number in thread_counts:
        with threads(number), torch.inference_mode():
            for batch in batches:
                many = signal.expand(batch, -1, -1).contiguous()
                setting = f"{number} threads, batch {batch}"
                codes = codec.encode(many)
                yield Measurement(
                    "encode", setting, batch * seconds / _best(partial(codec.encode, many)), "x"
                )
                yield Measurement(
                    "decode", setting, batch * seconds / _best(partial(codec.decode, codes)), "x"
                )
    if codec.causal:
        with threads(1), torch.inference_mode():
            yield from _streaming(codec, signal)
    with threads(max(thread_counts)):
        yield _training_step(codec, signal)
    path = os.fspath(checkpoint.find(model))
    loaded, whole, memory = fresh(_START, path, clip)
    yield Measurement("start-up: import and load", "new process", loaded, "s")
    yield Measurement("start-up, encode and decode the clip", "new process", whole, "s")
    yield Measurement("peak memory of that", "new process", memory, "MB")


def clip_of(codec: Codec, clip: str, seconds: float) -> Tensor:
    """So many seconds `(1, C, N)` of a sound file at the codec's rate; a shorter one is repeated.

    Raises:
        AudioError: it cannot be read.
    """
    samples, rate = audio.read(clip)
    signal = torch.from_numpy(audio.to_model(samples, rate, codec.sample_rate, codec.channels)[0])
    wanted = round(seconds * codec.sample_rate)
    return signal.repeat(1, 1, -(-wanted // signal.shape[-1]))[..., :wanted]


def fresh(script: str, *arguments: str) -> list[float]:
    """What a script prints, run in a new interpreter, and after that the MB that were resident at most.

    Raises:
        CodecError: it failed; with its last line.
    """
    command = [sys.executable, "-W", "ignore", "-c", script + _PEAK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # one that is killed says nothing
        reasons = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise CodecError(f"a process that was to be measured failed: {reasons[-1]}")
    return [float(word) for word in done.stdout.split()]


def _streaming(codec: Codec, signal: Tensor) -> Iterator[Measurement]:
    """Wall time from the last sample of a frame to its tokens, and from tokens to samples."""
    encoder, decoder = EncoderStream(codec), DecoderStream(codec)
    encoding, decoding = [], []
    for frame in signal[:1].split(codec.hop, dim=-1):
        started = time.perf_counter()
        codes = encoder.push(frame)
        middle = time.perf_counter()
        decoder.push(codes)
        encoding.append(middle - started)
        decoding.append(time.perf_counter() - middle)
    for what, spent in (("encode", encoding), ("decode", decoding)):
        for share in (50, 99):
            # the first frames allocate
            yield Measurement(
                f"streaming {what}, p{share}", "1 frame", 1000 * float(np.percentile(spent[5:], share)), "ms"
            )


def _training_step(codec: Codec, signal: Tensor) -> Measurement:
    """Forward and backward of one second, without discriminators and optimiser."""
    codec.train()
    crop = signal[..., : codec.sample_rate]

    def step() -> None:
        codec.zero_grad(set_to_none=True)
        done = codec(crop)
        ((done.audio - crop).abs().mean() + sum(done.losses.values())).backward()

    try:
        return Measurement("training step of 1 s, forward and backward", "batch 1", _best(step), "s")
    finally:
        codec.eval()


def _best(work: Work) -> float:
    return min(in_turn({"": work}, REPEATS)[""])
