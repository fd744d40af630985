"""`codec bench`: what this machine makes of a codec, how quantizers and searches compare."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Measure speed on this machine, and compare quantizers.")


@app.command("speed")
def speed(
    clip: Annotated[str, typer.Argument(help="Sound file to code.")],
    model: Annotated[str, typer.Option(help="Model name or weights file.")] = "default",
    threads: Annotated[str, typer.Option(help="Numbers of threads, separated by commas.")] = "1,2",
    batches: Annotated[str, typer.Option(help="Batch sizes, separated by commas.")] = "1,4",
    seconds: Annotated[float, typer.Option(min=1.0, help="Of the clip; a shorter one is repeated.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Real-time factors, streaming latency, start-up, memory and a training step of a codec."""
    from codec.bench.speed import measure

    figures = measure(
        model, clip, thread_counts=_numbers(threads), batches=_numbers(batches), seconds=seconds
    )
    if as_json:
        _json(model=model, figures=[asdict(figure) for figure in figures])
        return
    _machine()
    for figure in figures:
        typer.echo(f"{figure.what:45} {figure.setting:20} {figure.value:9.2f} {figure.unit}")


@app.command("quantizers")
def quantizers(
    out: Annotated[str, typer.Option(help="Folder for quantizers.csv and quantizers.png.")],
    data: Annotated[
        str | None, typer.Option(help="Folder, sound file or .jsonl manifest: examine on its latents too.")
    ] = None,
    model: Annotated[str, typer.Option(help="Whose encoder makes the latents.")] = "default",
    seconds: Annotated[float, typer.Option(min=0.1, help="Processor time to train each.")] = 3.0,
    only: Annotated[str | None, typer.Option(help="Names or their first words, separated by commas.")] = None,
) -> None:
    """Train every quantizer for a few seconds on Gaussian vectors and on latents, and say how each of them fares."""
    from rich.console import Console

    from codec.bench.quantizers import run
    from codec.bench.quantizers_report import tables

    console = Console(width=None if sys.stdout.isatty() else 150)
    names = None if only is None else [name.strip() for name in only.split(",")]
    with Console(stderr=True).status("") as status:
        results = run(out, data=data, model=model, names=names, seconds=seconds, progress=status.update)
    _machine()
    console.print(*tables(results), sep="\n")
    typer.echo(f"{out}: quantizers.csv, quantizers.png")


@app.command("search")
def search(
    data: Annotated[str, typer.Argument(help="Folder, sound file or .jsonl manifest.")],
    model: Annotated[str, typer.Option(help="Model name or weights file.")] = "default",
    only: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Take these rows of a manifest only.")
    ] = None,
    codebooks: Annotated[str | None, typer.Option(help="Numbers of codebooks, separated by commas.")] = None,
    beams: Annotated[str, typer.Option(help="Sequences kept, separated by commas.")] = "1,2,4,8,16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The error of beams and of coordinate descent beside the greedy search, on the latents of recordings."""
    from rich.console import Console
    from rich.table import Table

    from codec import load
    from codec.bench.search import compare
    from codec.cli.evaluate import row_filters
    from codec.data import sources

    found = sources.find(data, row_filters(only))
    numbers = None if codebooks is None else _numbers(codebooks)
    with Console(stderr=True).status("") as status:
        gains = compare(
            load(model),
            found.train + found.valid,
            codebooks=numbers,
            beams=_numbers(beams),
            progress=status.update,
        )
    if as_json:
        typer.echo(json.dumps([asdict(gain) for gain in gains], indent=2))
        return
    shown = Table(title="Squared error of the latents, greedy search = 100%")
    for name in ("codebooks", "beam", "refine", "error", "95% interval", "us/vector"):
        shown.add_column(name, justify="right")
    for gain in gains:
        interval = f"{gain.low:.1%} to {gain.high:.1%}"
        cells = [gain.num_codebooks, gain.beam, gain.refine, f"{gain.error:.1%}", interval]
        shown.add_row(*map(str, cells), f"{gain.us_per_vector:.0f}")
    _machine()
    Console(width=None if sys.stdout.isatty() else 100).print(shown)


@app.command("rvq")
def rvq(
    shapes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MxDxVxK[xB]]...",
            help="Vectors, width, codebook size, codebooks, beam; else a usual set.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or all there are.")] = "all",
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender; figures are medians.")] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="Time torch.compile too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Codebook search: this one beside plain torch, encodec, vector-quantize-pytorch and faiss."""
    from codec.bench.rvq import run, show

    show(run(device, shapes or (), threads=threads, rounds=rounds, compiled=compiled), as_json)


@app.command("stream")
def stream(
    clip: Annotated[str, typer.Argument(help="Sound file to stream.")],
    model: Annotated[str, typer.Option(help="Model name or weights file; a causal codec.")] = "default",
    seconds: Annotated[
        float, typer.Option(min=1.0, help="To stream: the first ten or so of the file, as often as they fit.")
    ] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Latency of a stream frame by frame on one thread, its ratio to coding at once, and growth of memory."""
    from codec.bench.stream import measure

    link = measure(model, clip, seconds=seconds)
    if as_json:
        _json(model=model, **asdict(link))
        return
    _machine()
    typer.echo(f"{link.frames} frames of {link.frame_ms:g} ms, one thread")
    for what, (median, late) in (
        ("encode", link.encode_ms),
        ("decode", link.decode_ms),
        ("both", link.both_ms),
    ):
        typer.echo(f"{what:8} median {median:6.2f} ms   99th percentile {late:6.2f} ms")
    typer.echo(f"{link.offline:.1f} times the time of coding as much at once")
    typer.echo(f"memory   {link.start_mb:.0f} MB, grew by {link.growth_mb:.1f} MB")


@app.command("long")
def long(
    clip: Annotated[str, typer.Argument(help="Sound file; it is repeated.")],
    model: Annotated[str, typer.Option(help="Model name or weights file.")] = "default",
    hours: Annotated[float, typer.Option(min=0.02, help="Of sound.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A long file to tokens and back: peak memory, and its speed beside a minute in memory."""
    from codec.bench.long import measure

    found = measure(model, clip, hours=hours)
    if as_json:
        _json(model=model, figures=[asdict(one) for one in found])
        return
    _machine()
    for one in found:
        typer.echo(
            f"{one.what} {one.hours:g} h: {one.speed:.0f} times real time, {one.short_speed:.0f} in memory; "
            f"{one.peak_mb:.0f} MB at most"
        )


@app.command("encodec")
def encodec(
    lengths: Annotated[str, typer.Option(help="Seconds, separated by commas.")] = "10,60",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each; figures are medians.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """EnCodec 24 kHz with the same weights here and in the package `encodec`, in turn, one thread; and memory."""
    from codec.bench.encodec import Memory, compare

    found = []
    if not as_json:
        _machine()
    for figure in compare(_numbers(lengths), rounds=rounds):
        found.append(asdict(figure))
        if as_json:
            continue
        if isinstance(figure, Memory):
            typer.echo(
                f"{figure.seconds:g} s, memory: {figure.ours:.0f} MB here, {figure.theirs:.0f} MB there"
            )
        else:
            typer.echo(
                f"{figure.seconds:g} s, {figure.what}: {figure.ours:.2f} s here, {figure.theirs:.2f} s there, "
                f"{figure.ratio:.2f} times faster ({min(figure.ratios):.2f} to {max(figure.ratios):.2f} in "
                f"{len(figure.ratios)} rounds); the same: {figure.same:.2%}"
            )
    if as_json:
        _json(figures=found)


@app.command("train")
def train(
    recipe: Annotated[str, typer.Argument(help="encodec or hificodec.")] = "encodec",
    batch: Annotated[int, typer.Option(min=1, help="Crops.")] = 2,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Of each crop; else the recipe's.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each; figures are medians.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Of the CPU.")] = 1,
    academicodec: Annotated[
        Path | None, typer.Option(help="Checkout of HiFi-Codec's published code, for hificodec.")
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="The step here with train.compile=true.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """One training step, codec and discriminators, in turn with one of public parts in float32.

    Here both networks learn from one pass through the discriminators; there the codec's pass follows their update.
    """
    from dataclasses import asdict
    from statistics import median

    from codec.bench.training import race
    from codec.train.assembly import compile_networks
    from codec.train.standalone import own_task

    def ours() -> tuple[Any, Any, int]:
        task, audio = own_task(recipe, batch, seconds)
        if compiled:  # when it first runs, in the round that does not count
            compile_networks(task.codec)
        return partial(task.training_step, {"audio": audio}, 0), audio, task.codec.sample_rate

    found = race(recipe, ours, rounds=rounds, threads=threads, academicodec=academicodec)
    if as_json:
        _json(**asdict(found))
        return
    _machine()
    typer.echo(
        f"{found.recipe}, batch {found.batch} of {found.seconds:g} s, threads {found.threads}, {rounds} rounds; "
        f"there, float32: {found.theirs:.2f} s"
    )
    for name, seconds, ratios in (
        ("float32", found.ours, found.ratios),
        ("bf16-mixed", found.ours_bf16, found.ratios_bf16),
    ):
        typer.echo(
            f"here, {name}: {seconds:.2f} s, {median(ratios):.2f} times faster "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _machine() -> None:
    """Print what the figures are measured on."""
    from codec.evaluate import machine

    typer.echo("; ".join(f"{key} {value}" for key, value in machine().items()))


def _json(**content: object) -> None:
    """Print figures as JSON, with what they were measured on."""
    from codec.evaluate import machine

    typer.echo(json.dumps({"machine": machine(), **content}, indent=2))


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise typer.BadParameter(f"whole numbers separated by commas, not {text!r}")
    return numbers
