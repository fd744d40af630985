"""`size=tiny`: any recipe with few channels and small batches, its structure as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codec.quantizers.codebook import DEFAULTS, resolve
from codec.train.config import RunConfig, ScheduleConfig

# what counts channels in encoders, decoders and discriminators; never what counts layers, taps, codebooks or codes
WIDTHS = frozenset({"dim", "hidden", "width"})


def tiny(config: RunConfig) -> RunConfig:
    """The narrow form: codecs with a quarter of the channels, discriminators with an eighth, 4 crops of 0.5 s.

    Crops have at least 25 frames.

    And for few steps: four times the learning rate (Adam's suits a width inversely, Yang et al., arXiv 2203.03466) but
    at most 0.001, which rises for a tenth of the steps and falls to 0 over the others; running means of the codebooks
    over 20 steps instead of 100, and dead-code replacement every other step. Where quantization would begin or
    discriminators join only after the last step, they do after a fortieth and after half of them.
    """
    model = config.model | {half: narrow(config.model[half], 4, 8) for half in ("encoder", "decoder")}
    train, steps = config.train, config.train.steps
    most = max(int(model["sample_rate"] * 0.5), 25 * (config.hop or 0))
    data = config.data | {
        "batch_size": min(4, config.data["batch_size"]),
        "samples": min(most, config.data["samples"]),
    }
    optim = replace(
        config.optim,
        generator=faster(config.optim.generator),
        discriminator=faster(config.optim.discriminator),
        schedule=ScheduleConfig("cosine", warmup=steps // 10),
    )
    return replace(
        config,
        model=model,
        quantizer=nimble(config.quantizer),
        data=data,
        optim=optim,
        train=replace(
            train,
            q_start=train.q_start if train.q_start < steps else steps // 40,
            d_start=train.d_start if train.d_start < steps else steps // 2,
        ),
        discriminator=narrow(config.discriminator, 8, 4),
    )


def nimble(quantizer: dict[str, Any]) -> dict[str, Any]:
    """The same quantizer, its running means over 20 steps, its dead codes replaced every other step."""
    if "decay" not in quantizer:
        return quantizer
    replace_dead = resolve({key: quantizer[key] for key in DEFAULTS if key in quantizer})["replace_dead"]
    settings = {"name": replace_dead} if isinstance(replace_dead, str) else dict(replace_dead)
    quick = {"replace_dead": settings | {"every": 2}} if settings["name"] == "threshold" else {}
    return quantizer | {"decay": 0.95} | quick


def faster(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The same optimiser with four times the learning rate; beyond 0.001 latents run away from their codebooks."""
    return optimizer | (
        {"lr": max(optimizer["lr"], min(4 * optimizer["lr"], 1e-3))}
        if optimizer.get("lr") is not None
        else {}
    )


def slower(optimizer: dict[str, Any]) -> dict[str, Any]:
    """The optimiser that `faster` makes this one of."""
    return optimizer | (
        {"lr": optimizer["lr"] / (4 if optimizer["lr"] <= 1e-3 else 1)}
        if optimizer.get("lr") is not None
        else {}
    )


def narrow(settings: Any, factor: int, least: int, key: str = "") -> Any:
    """The same settings with every count of channels divided by `factor`, but not below `least`."""
    if isinstance(settings, dict):
        return {name: narrow(value, factor, least, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [narrow(value, factor, least, key) for value in settings]
    if key in WIDTHS and isinstance(settings, int) and settings > least:
        return max(least, settings // factor // least * least)
    return settings
