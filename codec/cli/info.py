"""`codec info`: everything about a token file, a model, a sound file or this machine, computed."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.errors import CodecError

if TYPE_CHECKING:
    from codec.models.codec import Codec


def info(
    what: Annotated[
        str | None,
        typer.Argument(metavar="FILE_OR_MODEL", help="Token file, model (name or file), or sound file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Describe this machine instead.")] = False,
) -> None:
    """Describe a token file, a model or a sound file; every figure is computed from it."""
    if system == (what is not None):
        raise typer.BadParameter("give a file, a model's name, or --system")
    found = _system() if what is None else _describe(what)
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    width = max(map(len, found))
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            typer.echo(f"{key.replace('_', ' '):{width}}  {_plain(line)}")
            key = ""


def _describe(what: str) -> dict[str, Any]:
    if os.path.isfile(what):
        with open(what, "rb") as file:
            start = file.read(4)
        if start == b"\x89TOK":
            return _tokens(what)
        if not what.endswith(".safetensors"):
            from codec import audio
            from codec.errors import AudioError

            try:
                with audio.Reader(what) as reader:
                    sound = replace(reader.info, frames=reader.count())
            except AudioError:
                if Path(what).suffix.lower() in audio.SUFFIXES:
                    raise
                raise CodecError(f"{what} is neither a token file nor a model nor a sound file") from None
            return {"file": what} | asdict(sound) | {"seconds": sound.seconds}
    from codec import checkpoint

    return _model(str(checkpoint.find(what)), checkpoint.load(what))


def _tokens(path: str) -> dict[str, Any]:
    """The header and what reading the whole file shows; a damaged file is an error."""
    import numpy as np

    from codec.bitstream import TokReader
    from codec.bitstream.header import RESAMPLERS, VERSION

    with open(path, "rb") as file:
        reader = TokReader(file)
        frames = sum(chunk.shape[1] for chunk in reader if isinstance(chunk, np.ndarray))
        header, samples = reader.header, reader.num_samples or 0
    seconds, size = samples / header.sample_rate, os.path.getsize(path)
    return {
        "file": path,
        "format": f".tok version {VERSION}",
        "model": header.fingerprint.hex(),
        "seconds": seconds,
        "samples": samples,
        "sample_rate": header.sample_rate,
        "channels": header.channels,
        "channel_policy": header.channel_policy,
        "model_sample_rate": header.model_sample_rate,
        "resampler": RESAMPLERS.get(header.resampler, "unknown"),
        "frames": frames,
        "frames_per_second": header.frame_rate,
        "codebooks": len(header.codebook_sizes),
        "codebook_sizes": _sizes(header.codebook_sizes),
        "tokens_per_second": header.frame_rate * len(header.codebook_sizes),
        "bytes": size,
        "kbps": size * 8 / 1000 / seconds if seconds else None,
        "kbps_of_tokens": header.bitrate / 1000,
    }


def _model(path: str, codec: Codec) -> dict[str, Any]:
    quantizer, known = codec.quantizer, codec.metadata
    counts = {
        name: sum(value.numel() for value in part.state_dict().values() if value.is_floating_point())
        for name, part in (("encoder", codec.encoder), ("quantizer", quantizer), ("decoder", codec.decoder))
    }
    described = {
        "model": path,
        "bytes": os.path.getsize(path),
        "fingerprint": known["fingerprint"],
        "sample_rate": codec.sample_rate,
        "channels": codec.channels,
        "samples_per_frame": codec.hop,
        "frames_per_second": codec.frame_rate,
        "codebook_sizes": _sizes(quantizer.codebook_sizes),
        "bit_rates": [
            {"codebooks": n, "kbps": codec.bitrate(n) / 1000, "tokens_per_second": codec.frame_rate * n}
            for n in quantizer.prefixes
        ],
        "causal": codec.causal,
        "parameters": sum(counts.values()),
        **{f"parameters_{name}": count for name, count in counts.items()},
    }
    described |= {f"{key}_ms": value for key, value in _reach(codec).items()}
    rest = {
        key: value for key, value in known.items() if key not in ("config", "fingerprint", "format_version")
    }
    return described | rest


def _reach(codec: Codec) -> dict[str, float | str]:
    """How far the sound of a moment reaches, in milliseconds, from the layers."""
    field = codec.receptive_field()
    samples: dict[str, float] = {
        "look_back": field.back,
        "look_ahead": field.ahead,
        "latency": codec.hop + field.ahead,
        "receptive_field": field.back + codec.hop + field.ahead,
    }
    return {
        key: 1000 * value / codec.sample_rate if math.isfinite(value) else "the whole signal"
        for key, value in samples.items()
    }


def _system() -> dict[str, Any]:
    import torch

    from codec import __version__, native, system
    from codec.ops import kernel

    described = {
        "codec": __version__,
        "torch": torch.__version__,
        **system.machine(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda or "not built in",
        "gpu": "none",
    }
    if torch.cuda.is_available():
        described["gpu"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return described | {"native": native.describe(), "search_on_cuda": kernel.describe()}


def _sizes(sizes: tuple[int, ...]) -> str:
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 else " ".join(map(str, sizes))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    return "unknown" if value is None else str(value)
