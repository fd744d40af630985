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
from codec.build import Allow, build
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
    tensors = {name: _stored(value, half) for name, value in sorted(folded_state(codec).items())}
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


def folded_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that `fold` would leave; the module stays as it is.

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
    return metadata, tensors


def _fit(codec: Codec, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load `tensors`, which must be exactly those that `codec` has."""
    own = codec.state_dict()
    tensors = legacy.tensors(tensors, own)
    wrong = [
        ("misses", own.keys() - tensors.keys()),
        ("has unknown", tensors.keys() - own.keys()),
        ("has wrongly shaped", {n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape}),
    ]
    found = [f"{what} {some_names(names)}" for what, names in wrong if names]
    if found:
        raise CheckpointError(
            f"the weights in {path} do not fit their configuration: it {'; it '.join(found)}"
        )
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])


def some_names(names: Iterable[str], limit: int = 4) -> str:
    """The first few names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
