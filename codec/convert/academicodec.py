"""HiFi-Codec checkpoints in the layout of AcademiCodec's release (arXiv 2305.02765).

A checkpoint is a dictionary of three state dicts, `encoder`, `generator` and `quantizer`. The shape of the network is
read from the tensors; the sample rate is not in them (two of the three published models differ in nothing else).
"""

from __future__ import annotations

import os
import re
from typing import Any

from torch import Tensor

from codec.convert.tensors import Source, layer, load
from codec.errors import CheckpointError, ConfigError

PARTS = ("encoder", "generator", "quantizer")


def read(
    path: str | os.PathLike[str], *, sample_rate: int | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Configuration, weights by our names, and metadata of a checkpoint.

    Args:
        path: the checkpoint.
        sample_rate: in Hz; None takes it from the hop or from the file's name.

    Raises:
        CheckpointError: it cannot be read or does not have the layout.
        ConfigError: the sample rate cannot be told.
    """
    states = load(path)
    if not isinstance(states, dict) or not all(isinstance(states.get(part), dict) for part in PARTS):
        raise CheckpointError(
            f"{path} is no HiFi-Codec checkpoint: it needs {', '.join(PARTS[:2])} and {PARTS[2]}"
        )
    encoder, generator, quantizer = (Source(states[part], f"the {part} of {path}") for part in PARTS)
    shape = _shape(generator)
    hop = 1
    for rate in shape["rates"]:
        hop *= rate
    groups, stages = quantizer.count("quantizer_modules"), 2
    codebooks = [
        quantizer.take(f"quantizer_modules{'' if stage == 0 else 2}.{group}.embedding.weight")
        for stage in range(stages)
        for group in range(groups)
    ]
    dim, width = generator.shape("conv_pre")[1], encoder.shape("conv_pre")[0]
    config = {
        "model": {
            "sample_rate": sample_rate or _sample_rate(hop, os.path.basename(path)),
            "channels": encoder.shape("conv_pre")[1],
            "encoder": {"name": "hificodec_encoder", "dim": dim, "width": width, **shape},
            "decoder": {
                "name": "hificodec_decoder",
                "dim": dim,
                "width": generator.shape("conv_pre")[0],
                **shape,
            },
        },
        "quantizer": {
            "name": "grvq",
            "groups": groups,
            "stages": stages,
            "codebook_size": len(codebooks[0]),
            "update": "frozen",
        },
    }
    weights: dict[str, Any] = {"codebooks": codebooks}
    weights |= _network(encoder, "encoder.body", len(shape["rates"]), norms=True)
    weights |= layer(encoder, "conv_post", "encoder.head.1")
    weights |= _network(generator, "decoder.body", len(shape["rates"]), norms=False)
    weights |= layer(generator, "conv_post", f"decoder.body.{3 * len(shape['rates']) + 2}")
    for source in (encoder, generator, quantizer):
        source.finish()
    metadata = {"recipe": "hificodec", "origin": f"AcademiCodec checkpoint {os.path.basename(path)}"}
    return config, weights, metadata


def _shape(generator: Source) -> dict[str, list[int]]:
    ups = generator.count("ups")
    branches = generator.count("resblocks") // max(1, ups)
    kernels = [generator.shape(f"ups.{i}")[-1] for i in range(ups)]
    return {
        # every published kernel is twice its rate, or one more
        "rates": [kernel // 2 for kernel in kernels],
        "kernels": kernels,
        "branch_kernels": [generator.shape(f"resblocks.{j}.convs1.0")[-1] for j in range(branches)],
    }


def _network(source: Source, ours: str, blocks: int, *, norms: bool) -> dict[str, Tensor]:
    weights = layer(source, "conv_pre", f"{ours}.0")
    branches = source.count("resblocks") // blocks
    for block in range(blocks):
        weights |= layer(source, f"ups.{block}", f"{ours}.{3 * block + 2}")
        for branch in range(branches):
            theirs, place = f"resblocks.{block * branches + branch}", f"{ours}.{3 * block + 3}"
            for depth in range(source.count(f"{theirs}.convs1")):
                residual = f"{place}.branches.{branch}.{depth}.body"
                weights |= layer(source, f"{theirs}.convs1.{depth}", f"{residual}.1")
                weights |= layer(source, f"{theirs}.convs2.{depth}", f"{residual}.3")
            if norms:
                weights |= layer(source, f"normalize.{block * branches + branch}", f"{place}.norms.{branch}")
    return weights


def _sample_rate(hop: int, name: str) -> int:
    if hop == 240:
        return 24000
    found = re.search(r"(16|24)k", name)
    if found:
        return int(found[1]) * 1000
    raise ConfigError(f"the checkpoint {name} does not tell its sample rate: give 16000 or 24000")
