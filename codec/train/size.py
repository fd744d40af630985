"""`size=tiny`: any recipe with few channels and small batches, its structure as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codec.train.config import RunConfig

# what counts channels in encoders, decoders and discriminators; never what counts layers, taps, books or codes
WIDTHS = frozenset({"dim", "hidden", "width"})
SHRINK, LEAST, MULTIPLE = 4, 16, 8


def tiny(config: RunConfig) -> RunConfig:
    """The narrow form: channels by 4 (at least 16), batches of at most 4 crops of at most 0.5 s."""
    model = config.model | {half: narrow(config.model[half]) for half in ("encoder", "decoder")}
    most = int(model["sample_rate"] * 0.5)
    data = config.data | {
        "batch_size": min(4, config.data["batch_size"]),
        "samples": min(most, config.data["samples"]),
    }
    return replace(config, model=model, data=data, discriminator=narrow(config.discriminator))


def narrow(settings: Any, key: str = "") -> Any:
    """The same settings with every count of channels reduced."""
    if isinstance(settings, dict):
        return {name: narrow(value, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [narrow(value, key) for value in settings]
    if key in WIDTHS and isinstance(settings, int) and settings > LEAST:
        return max(LEAST, settings // SHRINK // MULTIPLE * MULTIPLE)
    return settings
