"""Time of one training step, networks and discriminators, against the same step made of public parts."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codec.bench.timing import Work, in_turn, ratios
from codec.bench.training_reference import EncodecReference, HiFiCodecReference
from codec.errors import ConfigError
from codec.ops.threads import threads as use_threads

RECIPES = ("encodec", "hificodec")


@dataclass(frozen=True, slots=True)
class Race:
    """Two steps in turn.

    Attributes:
        recipe: whose step it is.
        threads: of the CPU.
        batch: crops.
        seconds: of each crop.
        ours: median seconds of a step here.
        ours_bf16: the same with `trainer.precision=bf16-mixed`.
        theirs: median seconds of the step made of public parts, in float32.
        ratios: theirs over ours, round by round.
        ratios_bf16: theirs over ours_bf16.
    """

    recipe: str
    threads: int
    batch: int
    seconds: float
    ours: float
    ours_bf16: float
    theirs: float
    ratios: tuple[float, ...]
    ratios_bf16: tuple[float, ...]


def race(
    recipe: str,
    ours: Callable[[], tuple[Work, Tensor, int]],
    *,
    rounds: int = 5,
    threads: int = 1,
    academicodec: Path | None = None,
) -> Race:
    """Run a step here and a step there, in turn, in this process.

    Both train codec and discriminators on the same noise of a crop's length, with as many codebooks. Here both networks
    learn from one pass through the discriminators; there, as is usual, the codec's pass follows their update.

    Args:
        recipe: encodec or hificodec.
        ours: makes the step here, and gives the audio `(B, C, N)` that it trains on and its sample rate in Hz.
        rounds: that count; one before them warms up.
        threads: of the CPU.
        academicodec: checkout of the published code of HiFi-Codec, which is no package.

    Raises:
        ConfigError: the recipe has no public counterpart, or it was not given.
    """
    if recipe not in RECIPES:
        raise ConfigError(
            f"there is no public step to race {recipe!r} against, only for {', '.join(RECIPES)}"
        )
    with use_threads(threads), warnings.catch_warnings():
        # about k-means from few vectors, old forms of weight norm and empty mel filters
        warnings.simplefilter("ignore")
        step, audio, sample_rate = ours()
        theirs: EncodecReference | HiFiCodecReference
        if recipe == "encodec":
            theirs = EncodecReference(audio)
        else:
            theirs = HiFiCodecReference(audio, academicodec)
        half = torch.autocast("cpu", torch.bfloat16)
        spent = in_turn({"float32": step, "bf16": half(step), "theirs": theirs.step}, rounds)
    here, here_bf16, there = spent["float32"], spent["bf16"], spent["theirs"]
    return Race(
        recipe,
        threads,
        audio.shape[0],
        audio.shape[-1] / sample_rate,
        statistics.median(here),
        statistics.median(here_bf16),
        statistics.median(there),
        ratios(there, here),
        ratios(there, here_bf16),
    )
