"""`size=tiny`: any recipe with few channels and small batches, its structure as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from codec.train.config import RunConfig

# what counts channels in encoders, decoders and discriminators; never what counts layers, taps, books or codes
WIDTHS = frozenset({"dim", "hidden", "width"})


def tiny(config: RunConfig) -> RunConfig:
    """The narrow form: codecs with a quarter of the channels, discriminators with an eighth; 4 crops of 0.5 s."""
    model = config.model | {half: narrow(config.model[half], 4, 8) for half in ("encoder", "decoder")}
    most = int(model["sample_rate"] * 0.5)
    data = config.data | {
        "batch_size": min(4, config.data["batch_size"]),
        "samples": min(most, config.data["samples"]),
    }
    return replace(config, model=model, data=data, discriminator=narrow(config.discriminator, 8, 4))


def narrow(settings: Any, factor: int, least: int, key: str = "") -> Any:
    """The same settings with every count of channels divided by `factor`, but not below `least`."""
    if isinstance(settings, dict):
        return {name: narrow(value, factor, least, name) for name, value in settings.items()}
    if isinstance(settings, list):
        return [narrow(value, factor, least, key) for value in settings]
    if key in WIDTHS and isinstance(settings, int) and settings > least:
        return max(least, settings // factor // least * least)
    return settings
