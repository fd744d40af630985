"""`codec demo`: the page of demos/ on this machine."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from typing import Annotated

import typer

from codec import assets
from codec.errors import ConfigError


def demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Name or path of a model; may be given again.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; the first free one from 7860 by default.")] = None,
) -> None:
    """Open the demo: hear, see and break a codec in the browser; needs the extra demo."""
    missing = [name for name in ("gradio", "websockets") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {' and '.join(missing)}: {assets.install('demo')}")
    arguments = [part for name in model or () for part in ("--model", name)] + ["--host", host]
    if port is not None:
        arguments += ["--port", str(port)]
    runpy.run_path(str(assets.root() / "demos" / "app.py"))["main"](arguments)
