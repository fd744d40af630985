"""How much memory a system takes, measured in a process that does nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from codec import system
from codec.errors import CodecError
from codec.evaluate.clips import Clip
from codec.evaluate.options import Options
from codec.evaluate.parse import parse
from codec.evaluate.score import start_worker
from codec.evaluate.system import Program


def peak_memory(spec: str, clips: Sequence[Clip], options: Options) -> float | None:
    """Megabytes (10^6) resident at most while the first clip that works is coded; None for programs of others.

    A model pays for Python and torch, as it does in use.
    """
    if isinstance(parse(spec), Program):
        return None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=start_worker) as process:
        for clip in clips:
            try:
                return process.submit(_code, spec, clip, options).result()
            except CodecError:
                continue
    return None


def _code(spec: str, clip: Clip, options: Options) -> float:
    parse(spec).code(clip.load(options.rate, options.seconds), options.rate)
    return system.peak_memory() / 1e6
