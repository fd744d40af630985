"""One safetensors file holds a codec: its weights, its configuration and what is known about them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec import assets, legacy
from codec.build import Allow, build, spelled_out
from codec.errors import CheckpointError
from codec.models.codec import Codec
from codec.system import atomic_write

VERSION = 1


def save(
    codec: Codec,
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> str:
    """Write the weights of `codec` with everything that is needed to use them.

    Weight norm is folded into the weights. The file appears whole or not at all.

    Args:
        codec: stays as it is.
        path: the file, `.safetensors`.
        config: what `codec.build.build` made the codec from.
        metadata: JSON values that travel along: recipe, steps, data, licences, scores.
        half: store floating point tensors in 16 bits; computing stays in 32.

    Returns:
        The fingerprint, 16 hexadecimal digits.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {name: _stored(value, half) for name, value in sorted(_folded(codec).items())}
    config_text = _canonical(config)
    fingerprint = _fingerprint(config_text, tensors)
    text = {
        "format": "codec",
        "format_version": str(VERSION),
        "config": config_text,
        "fingerprint": fingerprint,
        "metadata": _canonical(metadata or {}),
    }
    _write(Path(path), to_bytes(tensors, metadata=text))
    return fingerprint


def load(name_or_path: str | os.PathLike[str] = "default", *, allow: Allow = ()) -> Codec:
    """A codec ready for use: in evaluation mode on the CPU, in 32 bits, weight norm folded.

    Args:
        name_or_path: `default` or another model that comes with the package, or the path of a file that `save` wrote.
        allow: import paths, modules or packages of parts from outside this package that the file may name; nothing
            else is imported (see `codec.build.resolve`).

    Returns:
        The codec; its `metadata` is what was given to `save`, with `config`, `fingerprint`, `format_version`.

    Raises:
        CheckpointError: no such model, not safetensors (pickles are never opened), damaged, of a newer version
            of the format, or its tensors are not exactly those of its configuration.
        ConfigError: the configuration names parts that do not exist here or are not allowed.
    """
    path = find(name_or_path)
    metadata, tensors = _read(path, with_tensors=True)
    # weights made in inference mode do not tell when they change, so nothing made of them could be kept
    with torch.inference_mode(False):
        codec = fold(build(metadata["config"], allow=allow))
        _fit(codec, tensors, path)
    codec.metadata = metadata
    return codec.eval()


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The weights file that `load` would read.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name_or_path)
    inside = assets.weights() / f"{path}.safetensors"
    if path.name == str(path) and inside.is_file():
        return inside
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in assets.weights().glob("*.safetensors"))) or "none here"
        raise CheckpointError(
            f"there is no model {str(name_or_path)!r} and no weights file of that name: give the path of a "
            f".safetensors file or a name ({names})"
        )
    return path


def fill(codec: Codec, path: str | os.PathLike[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a codec that is to train the weights of a file, its codebooks included.

    Args:
        codec: as `build` made it; weight norm, and the update of its codebooks, may be other than in the file.
        path: a file that `save` wrote.
        config: what `build` made the codec from.

    Returns:
        The metadata of `load`.

    Raises:
        CheckpointError: as `load`; the weights are not finite; or the file's codec is another one: other settings
            of the model, other tensors, or with them `codec` does not choose the same codes.
    """
    # the file may name what this run's configuration names itself
    parts = (config["quantizer"], config["model"]["encoder"], config["model"]["decoder"])
    allow = [str(part["name"]) for part in parts]
    source = load(path, allow=allow)
    metadata = source.metadata
    theirs, ours = (_settings(one["model"], allow) for one in (metadata["config"], config))
    if unlike := sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)):
        told = (
            f"{key} ({theirs.get(key, 'not set')} there, {ours.get(key, 'not set')} here)" for key in unlike
        )
        raise CheckpointError(f"{path} holds another codec than this one: they differ in {', '.join(told)}")
    tensors, own = source.state_dict(), _folded(codec)
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
            f"{path} holds another codec than this one: they differ in the shape of {_some(other)}"
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


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of `load` without reading the weights.

    Raises:
        CheckpointError: as `load`.
    """
    return _read(Path(path), with_tensors=False)[0]


def fold(module: nn.Module) -> Any:
    """Replace every weight norm in `module` by the weights it makes, in place; returns `module`."""
    for part in module.modules():
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
    return module


def _folded(module: nn.Module) -> dict[str, Tensor]:
    """The state that `fold` would leave; the module stays as it is.

    A copy could not be folded in its place: it shares with its original the class that weight norm made.
    """
    state = {name: value for name, value in module.state_dict().items() if ".parametrizations." not in name}
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part, "weight"):
            state[f"{name}.weight"] = part.weight
    return state


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    if half and value.is_floating_point():
        small = value.half()
        # what does not fit 16 bits (a count, an accumulator) stays as it is
        if torch.isfinite(small).all():
            return small
    return value.clone()


def _canonical(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _fingerprint(config: str, tensors: Mapping[str, Tensor]) -> str:
    """First 8 bytes of SHA-256 over the configuration and the tensors as stored, in hexadecimal."""
    digest = hashlib.sha256(config.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _write(path: Path, content: bytes) -> None:
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a weights file (codec export makes one of a run)")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise CheckpointError(f"there is no weights file {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # torch.save writes a zip file, in older versions a bare pickle; safetensors begin with the length of their header,
    # whose bytes may be the same, and then the header's brace
    if start.startswith((b"PK", b"\x80")) and start[8:9] != b"{":
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened: only .safetensors files are loaded "
            "(codec export and codec import-weights make them)"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if text.get("format") != "codec":
        raise CheckpointError(
            f"{path} holds no codec: it was not written by codec export or codec import-weights"
        )
    try:
        version = int(text["format_version"])
        if version > VERSION:
            raise CheckpointError(
                f"{path} has format version {version}, this codec reads up to {VERSION}: update it"
            )
        metadata = json.loads(text["metadata"]) | {"config": legacy.config(json.loads(text["config"]))}
        metadata |= {"format_version": version, "fingerprint": text["fingerprint"]}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} has a damaged description: {error}") from error
    # of the configuration and the tensors as they stand in the file, under the names that it was written with
    if with_tensors and _fingerprint(text["config"], tensors) != metadata["fingerprint"]:
        raise CheckpointError(f"{path} is damaged: its weights do not have the fingerprint it states")
    return metadata, legacy.tensors(tensors)


def _fit(codec: Codec, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors`, which must be exactly those that `codec` has."""
    own = codec.state_dict()
    wrong = [
        ("misses", own.keys() - tensors.keys()),
        ("has unknown", tensors.keys() - own.keys()),
        ("has wrongly shaped", {n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape}),
    ]
    found = [f"{what} {_some(names)}" for what, names in wrong if names]
    if found:
        raise CheckpointError(
            f"the weights in {path} do not fit their configuration: it {'; it '.join(found)}"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def _some(names: Iterable[str], limit: int = 4) -> str:
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
