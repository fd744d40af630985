"""`codec export` and `codec import-weights`: weights files of training runs and of published checkpoints."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from codec.errors import CodecError


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a training run, or one of its checkpoints.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Weights file (.safetensors).")],
    full: Annotated[bool, typer.Option("--full", help="Store 32 bits a weight instead of 16.")] = False,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights.")] = None,
    data: Annotated[str | None, typer.Option(help="What they were trained on, in words.")] = None,
    data_licence: Annotated[str | None, typer.Option(help="Licence of the training data.")] = None,
    scores: Annotated[str | None, typer.Option(help="JSON file of scores that should travel along.")] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Module or package outside this one that the run names; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the output if it exists.")] = False,
) -> None:
    """Make a weights file of a training run: averaged weights, configuration, origin; no optimiser, no adversary."""
    _check(target, force)
    given = {"licence": licence, "training_data": data, "data_licence": data_licence}
    if scores is not None:
        given["scores"] = _json(scores)
    from codec.train.export import export as write

    if allow:
        sys.path.append(os.getcwd())
    given = {key: value for key, value in given.items() if value}
    found = write(run, target, half=not full, metadata=given, allow=allow or ())
    typer.echo(
        f"{target}: {os.path.getsize(target)} bytes, step {found.get('steps')}, model {found['fingerprint']}"
    )


def import_weights(
    source: Annotated[
        str, typer.Argument(metavar="CKPT", help="The published checkpoint, or its name at the origin.")
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Weights file (.safetensors).")],
    origin: Annotated[str, typer.Option("--from", help="Whose layout it has, such as academicodec.")],
    sample_rate: Annotated[
        int | None, typer.Option(min=1, help="Of the model, in Hz, where the checkpoint does not tell.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the output if it exists.")] = False,
) -> None:
    """Make a weights file of a checkpoint that another project published. Its code is never run."""
    _check(target, force)
    from codec.convert import import_weights as convert

    found = convert(origin, source, target, sample_rate=sample_rate)
    typer.echo(f"{target}: {os.path.getsize(target)} bytes, model {found['fingerprint']}")


def _check(target: str, force: bool) -> None:
    if os.path.exists(target) and not force:
        raise CodecError(f"{target} exists: --force replaces it")


def _json(path: str) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise CodecError(f"{path} is no JSON file that can be read: {error}") from error
