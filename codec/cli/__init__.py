"""The command line: one verb per function, one file per group of verbs; torch is loaded by the verbs that need it."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from codec import __version__
from codec.cli import bench, demo, evaluate, info, stream, train, transcode, verify, weights
from codec.errors import CodecError


class Verbs(TyperGroup):
    """Turns errors that a user can cause into one sentence and exit code 1; usage errors exit with 2."""

    def invoke(self, ctx: Any) -> Any:
        """Run a verb."""
        try:
            return super().invoke(ctx)
        except CodecError as error:
            fail(str(error))
        except BrokenPipeError:
            # the reader of our output has gone; nothing more can be written, also not at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except MemoryError:
            fail("not enough memory")
        except OSError as error:
            if error.errno is None:
                raise
            fail(f"{error.filename}: {error.strerror}" if error.filename else _without_name(error))


def fail(message: str) -> NoReturn:
    """Print one sentence on standard error and exit with 1."""
    typer.echo(f"codec: {' '.join(message.split())}", err=True)
    raise typer.Exit(1)


def _without_name(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"the output cannot be written: {error.strerror}" if full else str(error.strerror)


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Neural audio codecs: sound files to tokens and back, and the training of the models that do it.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"codec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command("encode")(transcode.encode)
app.command("decode")(transcode.decode)
app.command("repair")(transcode.repair)
app.command("verify")(verify.verify)
app.command("info")(info.info)
app.add_typer(stream.app, name="stream")
app.command("train", **train.RAW)(train.train)
app.command("export")(weights.export)
app.command("import-weights")(weights.import_weights)
app.command("demo")(demo.demo)
app.command("eval")(evaluate.evaluate)
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Entry point of the console script."""
    # threads that wait for work by spinning take the cores from whatever else runs: measured beside two busy
    # processes on two cores, encoding ten seconds took 6.4 s spinning and 2.5 s waiting
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
