"""`codec train`: everything after the verb goes to the training app."""

from __future__ import annotations

from typing import Any

import typer

# overrides such as +recipe=NAME, and the app's own --help
RAW: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
}


def train(ctx: typer.Context) -> None:
    """Train a codec: codec train +recipe=NAME data.root=FOLDER [setting=value ...]; --help lists the recipes."""
    from codec.train.app import main

    raise typer.Exit(main(ctx.args))
