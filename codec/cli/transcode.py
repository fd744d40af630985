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
    from codec import api

    codec = api.load(model)
    count = codebooks if kbps is None else api.codebooks_for(codec, kbps)

    def work(job: files.Job, progress: files.Progress) -> str:
        with files.reading(job.source) as sound, files.writing(job.target) as tokens:
            done = api.encode_file(
                sound,
                tokens,
                codec,
                num_codebooks=count,
                beam=beam,
                refine=refine,
                channels=channels,
                progress=progress,
            )
        return (
            f"{done.seconds:.2f} s, {len(done.header.codebook_sizes)} x {done.num_frames} tokens, "
            f"{done.num_bytes} bytes, {done.kbps:.2f} kbps"
        )

    files.run(jobs, work, "encoded")


def decode(
    source: Annotated[
        str, typer.Argument(help="Token file, folder of token files, or - for standard input.")
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Sound file (wav, flac, ogg), folder, or - for a wav on standard output."
        ),
    ],
    model: Model = "default",
    force: Force = False,
) -> None:
    """Turn tokens back into sound, with the sample rate and the exact length of the source."""
    jobs = files.pair(source, target, (".tok",), ".wav", force=force)
    from codec import api

    codec = api.load(model)

    def work(job: files.Job, progress: files.Progress) -> str:
        with files.reading(job.source) as tokens, files.writing(job.target) as sound:
            header = api.decode_file(tokens, sound, codec, progress=progress)
        seconds = (header.num_samples or 0) / header.sample_rate
        return f"{seconds:.2f} s, {header.sample_rate} Hz"

    files.run(jobs, work, "decoded")
