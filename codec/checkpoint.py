"""One safetensors file holds a codec: its weights, its configuration and what is known about them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.build import build
from codec.errors import CheckpointError
from codec.models.codec import Codec
from codec.quantizers.codebook.book import Book

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


def load(path: str | os.PathLike[str]) -> tuple[Codec, dict[str, Any]]:
    """Read a codec back, in evaluation mode on the CPU, in 32 bits, weight norm folded.

    Args:
        path: a file that `save` wrote.

    Returns:
        The codec, and its metadata: what was given to `save`, with `config`, `fingerprint`, `format_version`.

    Raises:
        CheckpointError: no such file, not safetensors (pickles are never opened), damaged, of a newer version
            of the format, or its tensors are not exactly those of its configuration.
        ConfigError: the configuration names parts that do not exist here.
    """
    path = Path(path)
    metadata, tensors = _read(path, with_tensors=True)
    if _fingerprint(_canonical(metadata["config"]), tensors) != metadata["fingerprint"]:
        raise CheckpointError(f"{path} is damaged: its weights do not have the fingerprint it states")
    # weights made in inference mode do not tell when they change, so nothing made of them could be kept
    with torch.inference_mode(False):
        codec = fold(build(metadata["config"]))
        _fit(codec, tensors, path)
    return codec.eval(), metadata


def fill(codec: Codec, path: str | os.PathLike[str], config: Mapping[str, Any]) -> dict[str, Any]:
    """Give a codec that is to train the weights of a file, its codebooks included.

    Args:
        codec: as `build` made it; weight norm and books that learn may be other than when the file was written.
        path: a file that `save` wrote.
        config: what `build` made the codec from.

    Returns:
        The metadata of `load`.

    Raises:
        CheckpointError: as `load`, or the file's codec is another one: its tensors do not fit, or with them `codec`
            does not compute the same.
    """
    source, metadata = load(path)
    tensors, own = source.state_dict(), _folded(codec)
    books = {name: part for name, part in codec.named_modules() if isinstance(part, Book)}
    # what only a book that learns has, of books that the file has
    held = [f"{book}." for book in books if any(name.startswith(f"{book}.") for name in tensors)]
    kept = {name for name in own if name.startswith(tuple(held))} - tensors.keys()
    shapes = [{name: value.shape for name, value in state.items()} for state in (own, tensors)]
    other = {
        name for name in own.keys() | tensors.keys() if shapes[0].get(name) != shapes[1].get(name)
    } - kept
    if other:
        raise CheckpointError(f"{path} holds another codec than this one: they differ in {_some(other)}")
    with torch.no_grad():
        for name, part in codec.named_modules():
            if parametrize.is_parametrized(part, "weight"):
                part.weight = tensors[f"{name}.weight"]
        for name, value in codec.state_dict().items():
            if name in tensors:
                value.copy_(tensors[name])
        for book in books.values():
            book.adopt()
    if not _compute_the_same(source, codec):
        unlike = ", ".join(_unlike(metadata["config"]["model"], config["model"], "model"))
        raise CheckpointError(
            f"{path} holds another codec than this one: its weights fit, but compute something else here, "
            f"where other settings are {unlike}"
        )
    return metadata


@torch.no_grad()
def _compute_the_same(one: Codec, two: Codec) -> bool:
    """Whether two codecs have equal latents of half a second of noise, and equal audio of equal codes."""
    noise = torch.randn(1, one.channels, one.sample_rate // 2, generator=torch.Generator().manual_seed(0))
    if (one.sample_rate, one.channels, one.hop) != (two.sample_rate, two.channels, two.hop):
        return False
    was = two.training
    results = []
    codes = None
    for codec in (one.eval(), two.eval()):
        audio = codec.fill_frame(0.1 * noise)
        latents = codec.encoder(audio)
        codes = codec.quantizer.encode(latents) if codes is None else codes
        results.append((latents, codec.decoder(codec.quantizer.decode(codes))))
    two.train(was)
    return all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))
        for a, b in zip(*results, strict=True)
    )


def _unlike(theirs: Any, ours: Any, name: str) -> list[str]:
    """Settings that two configurations do not share, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(theirs.keys() | ours.keys())
        return [text for key in keys for text in _unlike(theirs.get(key), ours.get(key), f"{name}.{key}")]
    there, here = ("not set" if value is None else json.dumps(value) for value in (theirs, ours))
    return [] if there == here else [f"{name} ({there} there, {here} here)"]


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
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}") from error


def _read(path: Path, *, with_tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a weights file")
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
        metadata = json.loads(text["metadata"]) | {"config": json.loads(text["config"])}
        return metadata | {"format_version": version, "fingerprint": text["fingerprint"]}, tensors
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} has a damaged description: {error}") from error


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
