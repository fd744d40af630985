"""The task of a recipe without a trainer, for whoever times or checks a single step."""

from __future__ import annotations

import torch
from torch import Tensor

from codec.build import build
from codec.train.assembly import make_task
from codec.train.compose import compose
from codec.train.config import parse
from codec.train.task import CodecTask


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
