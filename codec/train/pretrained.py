"""`weights=`: a run that starts from a weights file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from codec import checkpoint
from codec.build import Allow, spelled_out
from codec.errors import CheckpointError
from codec.models.codec import Codec
from codec.system import PathLike


def fill(codec: Codec, path: PathLike, config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a codec that is to train the weights of a file, its codebooks included.

    Args:
        codec: as `build` made it; weight norm, and the update of its codebooks, may be other than in the file.
        path: a weights file.
        config: what `build` made the codec from.

    Returns:
        The metadata of the file.

    Raises:
        CheckpointError: as `codec.checkpoint.load`; the weights are not finite; or the file's codec is another
            one: other settings of the model, other tensors, or with them `codec` does not choose the same codes.
    """
    # the file may name what this run's configuration names itself
    parts = (config["quantizer"], config["model"]["encoder"], config["model"]["decoder"])
    allow = [str(part["name"]) for part in parts if ":" in str(part["name"])]
    source = checkpoint.load(path, allow=allow)
    metadata = source.metadata
    theirs, ours = (_settings(one["model"], allow) for one in (metadata["config"], config))
    if unlike := sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)):
        told = (
            f"{key} ({theirs.get(key, 'not set')} there, {ours.get(key, 'not set')} here)" for key in unlike
        )
        raise CheckpointError(f"{path} holds another codec than this one: they differ in {', '.join(told)}")
    tensors, own = source.state_dict(), checkpoint.folded_state(codec)
    if not all(value.isfinite().all() for value in tensors.values() if value.is_floating_point()):
        raise CheckpointError(f"{path} holds weights that are not finite")
    # what only a codebook in training has, of codebooks that the file has
    codebooks = set(codec.quantizer.codebooks())
    places = [f"{name}." for name, part in codec.named_modules() if part in codebooks]
    held = [place for place in places if any(name.startswith(place) for name in tensors)]
    kept = {name for name in own if name.startswith(tuple(held))} - tensors.keys()
    shapes = [{name: value.shape for name, value in state.items()} for state in (own, tensors)]
    other = {
        name for name in own.keys() | tensors.keys() if shapes[0].get(name) != shapes[1].get(name)
    } - kept
    if other:
        raise CheckpointError(
            f"{path} holds another codec than this one: they differ in the shape of {checkpoint.some_names(other)}"
        )
    with torch.no_grad():
        for name, part in codec.named_modules():
            if parametrize.is_parametrized(part, "weight"):
                _unfold(part, tensors[f"{name}.weight"])
        for name, value in codec.state_dict().items():
            if name in tensors:
                value.copy_(tensors[name])
    codec.quantizer.mark_initialised()
    if not _choose_the_same(source, codec):
        raise CheckpointError(
            f"{path} holds another codec than this one: the quantizer is {metadata['config']['quantizer']} there and "
            f"{dict(config['quantizer'])} here, and chooses other codes"
        )
    return metadata


def _settings(model: Mapping[str, Any], allow: Allow) -> dict[str, str]:
    """All settings of a model by their full names, as text, defaults included."""
    found = {f"model.{key}": value for key, value in model.items() if key not in ("encoder", "decoder")}
    for half in ("encoder", "decoder"):
        found |= {
            f"model.{half}.{key}": value for key, value in spelled_out(half, model[half], allow).items()
        }
    # the channels of the audio stand in the model
    given = {"model.channels": 1} | found
    for half in ("encoder", "decoder"):
        given.pop(f"model.{half}.channels", None)
    return {key: json.dumps(value, sort_keys=True) for key, value in given.items()}


def _unfold(part: Any, weight: Tensor) -> None:
    """Give a layer under weight norm a weight."""
    directions = part.weight.detach().clone()
    part.weight = weight
    gain, direction = part.parametrizations.weight.original0, part.parametrizations.weight.original1
    # a row of zeros has no direction of its own, and must have one
    empty = (gain == 0).expand_as(direction)
    direction.copy_(torch.where(empty, directions, direction))


@torch.no_grad()
def _choose_the_same(one: Codec, two: Codec) -> bool:
    """Whether two codecs whose networks are the same have equal quantizers."""
    shapes = [(codec.quantizer.codebook_sizes, codec.quantizer.prefixes) for codec in (one, two)]
    if shapes[0] != shapes[1]:
        return False
    noise = torch.randn(1, one.channels, one.sample_rate, generator=torch.Generator().manual_seed(0))
    latents = one.encoder(one.fill_frame(0.1 * noise))
    was = two.training
    codes = [codec.eval().quantizer.encode(latents) for codec in (one, two)]
    two.train(was)
    # codebooks under learned maps may be a rounding apart
    return float((codes[0] == codes[1]).float().mean()) > 0.99
