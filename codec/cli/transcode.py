"""`codec encode` and `codec decode`: one file, a folder, or standard input and output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from codec.cli import files

if TYPE_CHECKING:
    pass

Model = Annotated[
    str, typer.Option("--model", "-m", help="Name of an included model, or a .safetensors file.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace outputs that exist.")]


def encode(
    source: Annotated[
        str, typer.Argument(help="Sound file, folder of sound files, or - for standard input.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="Token file (.tok), folder, or - for standard output.")
    ],
    model: Model = "default",
    codebooks: Annotated[
        int | None, typer.Option("--codebooks", "-n", min=1, help="Use only the first codebooks.")
    ] = None,
    kbps: Annotated[
        float | None, typer.Option(min=0, help="Use as many codebooks as fit into this bit rate.")
    ] = None,
    channels: Annotated[
        str, typer.Option(help="If the channels are not the model's: mix them, split them, or refuse.")
    ] = "mix",
    beam: Annotated[int, typer.Option(min=1, help="Candidates of the codebook search: slower, closer.")] = 1,
    refine: Annotated[int, typer.Option(min=0, help="Sweeps that improve the codes after the search.")] = 0,
    force: Force = False,
) -> None:
    """Turn sound into tokens. Any sample rate and channel count; the token file remembers both."""
    if codebooks is not None and kbps is not None:
        raise typer.BadParameter("choose --codebooks or --kbps, not both")
    from codec.audio import SUFFIXES

    jobs = files.pair(source, target, SUFFIXES, ".tok", force=force)
    from codec.checkpoint import load
    from codec.files import encode_file

    codec = load(model)
    count = codebooks if kbps is None else codec.codebooks_for(kbps)

    def work(job: files.Job, progress: files.Progress) -> str:
        with files.reading(job.source) as sound, files.writing(job.target) as tokens:
            done = encode_file(
                sound,
                tokens,
                codec,
                num_codebooks=count,
                beam=beam,
                refine=refine,
                channels=channels,
                progress=progress,
            )
        for warning in done.warnings:
            typer.echo(f"codec: {files.shown(job.source)}: {warning}", err=True)
        return (
            f"{done.seconds:.2f} s, {len(done.header.codebook_sizes)} x {done.num_frames} tokens, "
            f"{done.num_bytes} bytes, {done.kbps:.2f} kbps"
        )

    files.run(jobs, work, "encoded")


def decode(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Token file, folder of token files, or - for standard input.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Sound file (wav, flac, ogg), folder, or - for a wav on standard output."
        ),
    ],
    model: Model = "default",
    start: Annotated[float, typer.Option(min=0, help="Begin at this second.")] = 0.0,
    duration: Annotated[float | None, typer.Option(min=0, help="Decode so many seconds.")] = None,
    conceal: Annotated[
        bool, typer.Option("--conceal", help="Decode what is left of a damaged file; fade over what is lost.")
    ] = False,
    force: Force = False,
) -> None:
    """Turn tokens back into sound, with the sample rate and the exact length of the source."""
    jobs = files.pair(source, target, (".tok",), ".wav", force=force)
    from codec.checkpoint import load
    from codec.files import decode_file

    codec = load(model)

    def work(job: files.Job, progress: files.Progress) -> str:
        with files.reading(job.source) as tokens, files.writing(job.target) as sound:
            done = decode_file(
                tokens, sound, codec, start=start, duration=duration, conceal=conceal, progress=progress
            )
        for first, last in done.gaps:
            typer.echo(f"{job.source}: {1000 * first:.0f} to {1000 * last:.0f} ms are lost", err=True)
        return f"{done.seconds:.2f} s, {done.header.sample_rate} Hz"

    files.run(jobs, work, "decoded")


def repair(
    source: Annotated[str, typer.Argument(metavar="IN", help="Damaged or cut token file.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="Token file of all that is left.")],
    force: Force = False,
) -> None:
    """Make a whole token file of what is left of a damaged one; the gaps are declared in it."""
    jobs = files.pair(source, target, (".tok",), ".tok", force=force)
    from codec.bitstream import repair as mend

    def work(job: files.Job, progress: files.Progress) -> str:
        found = mend(job.source, job.target)
        ms = 1000 / found.header.frame_rate
        for gap in found.gaps:
            lost = f"{gap.start * ms:.0f} to {(gap.start + gap.frames) * ms:.0f} ms are lost"
            typer.echo(f"{job.source}: {lost}", err=True)
        end = "" if found.had_end else ", the end was missing"
        return f"{found.frames} frames kept, {found.lost_frames} lost{end}"

    files.run(jobs, work, "repaired")
