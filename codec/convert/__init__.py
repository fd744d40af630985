"""Weights that other projects published, made into weights files of this one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from codec import checkpoint
from codec.build import build
from codec.convert import academicodec, encodec
from codec.convert.tensors import transplant
from codec.errors import ConfigError
from codec.models.codec import Codec

SOURCES = ("academicodec", "encodec")


def import_weights(
    origin: str,
    source: str,
    target: str | os.PathLike[str],
    *,
    sample_rate: int | None = None,
) -> dict[str, Any]:
    """Make a weights file of a published checkpoint.

    Args:
        origin: whose layout it has: `academicodec` (HiFi-Codec) or `encodec` (the `encodec` package).
        source: the checkpoint; or for `encodec` one of `24khz` and `48khz`, which the package downloads.
        target: the weights file, `.safetensors`.
        sample_rate: of the model, in Hz, where the checkpoint does not tell.

    Returns:
        The metadata of the file.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not have the layout.
        ConfigError: no such origin, or the sample rate is needed.
    """
    if origin not in SOURCES:
        raise ConfigError(f"there is no converter from {origin!r}; there are {', '.join(SOURCES)}")
    if origin == "encodec":
        config, weights, metadata = encodec.read(source)
    else:
        config, weights, metadata = academicodec.read(source, sample_rate=sample_rate)
    checkpoint.save(assemble(config, weights), target, config, metadata)
    return checkpoint.read_metadata(target)


def assemble(config: Mapping[str, Any], weights: Mapping[str, Any]) -> Codec:
    """The codec of `config` with exactly these weights, in evaluation mode.

    Raises:
        CheckpointError: weights are missing, unknown or of another shape.
    """
    codec = checkpoint.fold(build(config)).eval()
    transplant(codec, weights)
    return codec
