"""Time of one training step, networks and discriminators, against the same step made of public parts."""

from __future__ import annotations

import statistics
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from codec.bench.timing import in_turn, ratios
from codec.build import build
from codec.errors import ConfigError
from codec.ops.threads import threads as use_threads
from codec.train.assembly import compile_networks, make_task
from codec.train.compose import compose
from codec.train.config import parse
from codec.train.speed_reference import EncodecReference, HiFiCodecReference
from codec.train.task import CodecTask

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
    *,
    batch: int = 2,
    seconds: float | None = None,
    rounds: int = 5,
    threads: int = 1,
    academicodec: Path | None = None,
    compiled: bool = False,
) -> Race:
    """Run a step here and a step there, in turn, in this process.

    Both train codec and discriminators on the same noise of a crop's length, with as many codebooks. Here both networks
    learn from one pass through the discriminators; there, as is usual, the codec's pass follows their update.

    Args:
        recipe: encodec or hificodec.
        batch: crops.
        seconds: of each crop; None is the recipe's length.
        rounds: that count; one before them warms up.
        threads: of the CPU.
        academicodec: checkout of the published code of HiFi-Codec, which is no package.
        compiled: the step here as with `train.compile=true`; the round before those that count compiles.

    Raises:
        ConfigError: the recipe has no public counterpart, or it was not given.
    """
    if recipe not in RECIPES:
        raise ConfigError(
            f"there is no public step to race {recipe!r} against, only for {', '.join(RECIPES)}"
        )
    with use_threads(threads), warnings.catch_warnings():
        # about codebooks that start from few vectors, old forms of weight norm and empty mel filters
        warnings.simplefilter("ignore")
        task, audio = own_task(recipe, batch, seconds)
        if compiled:
            compile_networks(task.codec)
        theirs: EncodecReference | HiFiCodecReference
        if recipe == "encodec":
            theirs = EncodecReference(audio)
        else:
            theirs = HiFiCodecReference(audio, academicodec)
        step = partial(task.training_step, {"audio": audio}, 0)
        half = torch.autocast("cpu", torch.bfloat16)
        spent = in_turn({"float32": step, "bf16": half(step), "theirs": theirs.step}, rounds)
    ours, ours_bf16, there = spent["float32"], spent["bf16"], spent["theirs"]
    return Race(
        recipe,
        threads,
        batch,
        audio.shape[-1] / task.codec.sample_rate,
        statistics.median(ours),
        statistics.median(ours_bf16),
        statistics.median(there),
        ratios(there, ours),
        ratios(there, ours_bf16),
    )


def own_task(recipe: str, batch: int, seconds: float | None = None) -> tuple[CodecTask, Tensor]:
    """The task of a recipe, able to train without a trainer, and a batch of noise."""
    config = parse(compose(f"+recipe={recipe}"))
    # one number of codebooks, the same on both sides
    config.train.bandwidths = [6.0] if recipe == "encodec" else None
    torch.manual_seed(0)
    codec = build(config.codec, allow=True)
    samples = config.data["samples"] if seconds is None else round(seconds * codec.sample_rate)
    audio = 0.1 * torch.randn(batch, codec.channels, samples)
    task = make_task(config, codec)
    found = task.configure_optimizers()
    # what a trainer would give, without its callbacks and loops
    task.optimizers = lambda use_pl_optimizer=True: found  # type: ignore[assignment, method-assign]
    task.manual_backward = Tensor.backward  # type: ignore[method-assign]
    return task.train(), audio
