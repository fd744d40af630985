"""`codec stream encode|decode`: a live link through standard input and output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from codec.errors import CodecError

if TYPE_CHECKING:
    from codec.models.codec import Codec

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of an included model, or a .safetensors file.")
]
Stats = Annotated[bool, typer.Option("--stats", help="Print latency and real-time factor to standard error.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Live: arecord -f S16_LE -r 16000 | codec stream encode | ssh HOST codec stream decode | aplay",
)


@app.command()
def encode(
    model: Model = "default",
    rate: Annotated[
        int | None, typer.Option(min=1, help="Of bare samples, in Hz; a WAV header has it.")
    ] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Of bare samples; a WAV header has it.")] = None,
    codebooks: Annotated[
        int | None, typer.Option("--codebooks", "-n", min=1, help="Use only the first codebooks.")
    ] = None,
    kbps: Annotated[
        float | None, typer.Option(min=0, help="Use as many codebooks as fit into this bit rate.")
    ] = None,
    stats: Stats = False,
) -> None:
    """Sound on standard input (WAV, or bare 16-bit samples), token packets on standard output.

    Other sound files are known by their first bytes, and read to their end before they are coded.
    """
    if codebooks is not None and kbps is not None:
        raise typer.BadParameter("choose --codebooks or --kbps, not both")
    _refuse_terminal(sys.stdin.isatty(), "input")
    _refuse_terminal(sys.stdout.isatty(), "output")
    from codec import live

    codec, clock = _load(model), live.Clock()
    count = codebooks if kbps is None else codec.codebooks_for(kbps)
    warnings: list[str] = []
    try:
        warnings = live.encode_live(
            sys.stdin.buffer,
            sys.stdout.buffer,
            codec,
            sample_rate=rate,
            channels=channels,
            num_codebooks=count,
            clock=clock,
        )
    except BrokenPipeError:
        _hang_up()
    for warning in warnings:
        typer.echo(f"codec: standard input: {warning}", err=True)
    if stats:
        typer.echo(f"codec: {clock.report()}", err=True)


@app.command()
def decode(
    model: Model = "default",
    raw: Annotated[bool, typer.Option("--raw", help="Bare 16-bit samples, without a WAV header.")] = False,
    stats: Stats = False,
) -> None:
    """Token packets on standard input, sound on standard output."""
    _refuse_terminal(sys.stdin.isatty(), "input")
    _refuse_terminal(sys.stdout.isatty(), "output")
    from codec import live

    codec, clock = _load(model), live.Clock()
    try:
        live.decode_live(sys.stdin.buffer, sys.stdout.buffer, codec, wav=not raw, clock=clock)
    except BrokenPipeError:
        _hang_up()
    if stats:
        typer.echo(f"codec: {clock.report()}", err=True)


def _load(model: str) -> Codec:
    import torch

    from codec import checkpoint

    # one frame is too little work to share, and waking other threads takes longer than doing it
    torch.set_num_threads(1)
    return checkpoint.load(model)


def _hang_up() -> None:
    """The listener has gone, which is how a link ends; nothing more can be written, also not at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_terminal(is_terminal: bool, which: str) -> None:
    if is_terminal:
        raise CodecError(f"standard {which} is a terminal: this verb stands between two programs in a pipe")
