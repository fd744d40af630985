"""`codec verify`: the same sound gives the same codes, however it arrives."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer


def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Name of an included model, or a .safetensors file.")
    ],
    data: Annotated[
        str | None, typer.Option(help="Sound file to try it on; noise in bursts by default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of the sound, at most.")] = 5.0,
    trials: Annotated[int, typer.Option(min=1, help="Random choices for each way of coding.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare codes and sound of a model in chunks, batches, with padding, on threads and devices with the whole."""
    import torch

    from codec import audio, checkpoint
    from codec import verify as ways

    codec = checkpoint.load(model)
    if data is None:
        torch.manual_seed(seed)
        size = round(seconds * codec.sample_rate)
        swell = torch.sin(torch.arange(size) * (2 * math.pi * 1.7 / codec.sample_rate)).clamp(min=0)
        sound = 0.3 * swell * torch.randn(1, codec.channels, size)
    else:
        with audio.Reader(data) as reader:
            samples = reader.read(round(seconds * reader.info.sample_rate))
            fitted, _ = audio.to_model(samples, reader.info.sample_rate, codec.sample_rate, codec.channels)
            sound = torch.from_numpy(fitted)
    checks = ways.verify(codec, sound, trials=trials, seed=seed)
    if as_json:
        rows = [
            {
                "way": check.name,
                "trials": check.trials,
                "codes": check.codes,
                "flipped": check.flipped,
                "largest_difference": None if math.isnan(check.worst) else check.worst,
                "exact": check.exact,
            }
            for check in checks
        ]
        typer.echo(json.dumps(rows, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        typer.echo(f"{'':{width}}  trials     codes  flipped  largest difference of a sample")
        for check in checks:
            flips = f"{check.flipped / max(1, check.codes):.4%}" if check.flipped else "none"
            worst = "" if math.isnan(check.worst) else f"{check.worst:.1e}"
            verdict = "exact" if check.exact else "NOT exact"
            typer.echo(
                f"{check.name:{width}}  {check.trials:6}  {check.codes:8}  {flips:>7}  {worst:>8}  {verdict}"
            )
    if not all(check.exact for check in checks if "device" not in check.name):
        raise typer.Exit(1)
