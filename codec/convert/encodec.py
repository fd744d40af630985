"""Models of the `encodec` package (Défossez et al., arXiv 2210.13438): its own downloads, or a local checkpoint."""

from __future__ import annotations

import os
import re
from typing import Any

from torch import Tensor

from codec import assets
from codec.convert.tensors import Source, layer, load
from codec.errors import CheckpointError

RATIOS = (8, 5, 4, 2)
# codebooks of each published bandwidth: 10 bits a codebook, 75 frames a second at 24 kHz and 150 at 48 kHz
BANDWIDTHS = {24000: (2, 4, 8, 16, 32), 48000: (2, 4, 8, 16)}


def read(source: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Configuration, weights by our names, and metadata.

    Args:
        source: `24khz` or `48khz`, which the package downloads, or the path of a checkpoint of either.

    Raises:
        CheckpointError: no network and no such file, or a file that does not have the layout.
    """
    if source in ("24khz", "48khz"):
        state = _download(source)
    else:
        state = load(source)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(
                f"{source} is no checkpoint of the encodec package: it is no dictionary of tensors"
            )
    return convert(state, source)


def convert(state: dict[str, Tensor], name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The same of a state dict of `encodec.EncodecModel`.

    Raises:
        CheckpointError: it does not have the layout.
    """
    source = Source(state, name)
    # the stereo model normalizes over time instead of its weights
    stereo = "encoder.model.0.conv.norm.weight" in state
    sample_rate = 48000 if stereo else 24000
    codebooks = [
        source.take(f"quantizer.vq.layers.{k}._codebook.embed")
        for k in range(source.count("quantizer.vq.layers"))
    ]
    weights: dict[str, Any] = {"codebooks": codebooks}
    for part in ("encoder", "decoder"):
        weights |= _network(source, part, stereo)
    source.finish(ignore=("_codebook.inited", "_codebook.cluster_size", "_codebook.embed_avg"))
    shape = {
        "dim": len(codebooks[0][0]),
        "ratios": list(RATIOS),
        "width": source.shape("encoder.model.0.conv.conv")[0],
        "norm": "time" if stereo else "weight",
        "pad": "mirror",
        "causal": not stereo,
    }
    config: dict[str, Any] = {
        "model": {
            "sample_rate": sample_rate,
            "channels": source.shape("encoder.model.0.conv.conv")[1],
            "encoder": {"name": "seanet_encoder", **shape},
            "decoder": {"name": "seanet_decoder", **shape},
        },
        "quantizer": {
            "name": "rvq",
            "num_codebooks": len(codebooks),
            "codebook_size": len(codebooks[0]),
            "prefixes": [count for count in BANDWIDTHS[sample_rate] if count <= len(codebooks)],
            "update": "frozen",
        },
    }
    if stereo:  # a second at a time, of which the last hundredth fades into the next
        config["model"]["segments"] = {"length": sample_rate, "stride": sample_rate * 99 // 100}
    metadata = {
        "recipe": "encodec",
        "origin": f"encodec package, {os.path.basename(name)}",
        "licence": "terms of the encodec project, which published the weights",
    }
    return config, weights, metadata


def _download(name: str) -> dict[str, Tensor]:
    encodec = assets.optional("encodec", "encodec")
    try:
        model = getattr(encodec.EncodecModel, f"encodec_model_{name}")(pretrained=True)
    except OSError as error:
        raise CheckpointError(
            f"the encodec package could not download its {name} model ({error}): give the path of a checkpoint"
        ) from error
    return model.state_dict()


def _network(source: Source, part: str, stereo: bool) -> dict[str, Tensor]:
    """Layers in a row have the same numbers here and there; only what is inside them is named differently."""
    weights: dict[str, Tensor] = {}

    def conv(theirs: str, ours: str, kind: str = "conv") -> None:
        inside = stereo and kind == "conv"  # the transposed ones norm before they cut their ends
        weights.update(layer(source, f"{theirs}.{kind}.{kind}", f"{ours}.0" if inside else ours))
        if stereo:
            weights.update(layer(source, f"{theirs}.{kind}.norm", f"{ours}.1" if inside else f"{ours}.norm"))

    numbers = sorted(
        {int(found[1]) for key in source if (found := re.match(rf"{part}\.model\.(\d+)\.", key))}
    )
    for number in numbers:
        theirs, ours = f"{part}.model.{number}", f"{part}.body.{number}"
        kinds = {key[len(theirs) + 1 :].partition(".")[0] for key in source if key.startswith(f"{theirs}.")}
        if "block" in kinds:
            conv(f"{theirs}.block.1", f"{ours}.body.1")
            conv(f"{theirs}.block.3", f"{ours}.body.3")
            conv(f"{theirs}.shortcut", f"{ours}.shortcut")
        elif "lstm" in kinds:
            for key in [key for key in source if key.startswith(f"{theirs}.lstm.")]:
                weights[ours + key[len(theirs) :]] = source.take(key)
        else:
            conv(theirs, ours, kinds.pop())
    return weights
