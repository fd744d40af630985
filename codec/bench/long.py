"""Hours of sound from file to file: peak memory, and speed beside a short piece in memory."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

from codec import files
from codec.bench.speed import clip_of, fresh
from codec.checkpoint import find
from codec.ops.threads import threads

SHORT = 60.0  # seconds that are coded in one call
_RUN = """
import sys, time, torch
from codec import files
torch.set_num_threads(1)
codec = files.load(sys.argv[2])
began = time.perf_counter()
getattr(files, sys.argv[1])(sys.argv[3], sys.argv[4], codec)
print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Length:
    """What a long file took, one thread.

    Attributes:
        what: encode or decode.
        hours: of sound.
        speed: times faster than real time, from file to file.
        short_speed: the same of a minute in memory, in one call.
        peak_mb: resident memory at most, of a process that does nothing else.
    """

    what: str
    hours: float
    speed: float
    short_speed: float
    peak_mb: float


def measure(model: str, clip: str, *, hours: float = 3.0) -> list[Length]:
    """Encode and decode a file of that length in new processes, and a minute of it in this one.

    Args:
        model: name or path.
        clip: sound file; it is repeated.
        hours: of sound.

    Raises:
        AudioError: the clip cannot be read.
        CheckpointError: there is no such model.
    """
    codec, found = files.load(model), []
    with tempfile.TemporaryDirectory() as folder, threads(1), torch.inference_mode():
        long, tokens, back = (str(Path(folder) / name) for name in ("long.wav", "long.tok", "back.wav"))
        minute = clip_of(codec, clip, SHORT)
        count = max(1, round(hours * 3600 / SHORT))
        with soundfile.SoundFile(long, "w", codec.sample_rate, codec.channels, "PCM_16") as file:
            for _ in range(count):
                file.write(minute[0].T.numpy())
        codes = codec.encode(minute)
        for what, short, source, target in (
            ("encode", lambda: codec.encode(minute), long, tokens),
            ("decode", lambda: codec.decode(codes), tokens, back),
        ):
            began = time.perf_counter()
            short()
            in_memory = time.perf_counter() - began
            spent, peak = fresh(_RUN, f"{what}_file", str(find(model)), source, target)
            found.append(Length(what, count * SHORT / 3600, count * SHORT / spent, SHORT / in_memory, peak))
    return found
