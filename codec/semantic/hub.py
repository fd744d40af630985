"""The package `transformers`, which loads speech models, kept quiet."""

from __future__ import annotations

import warnings
from typing import Any

from codec import assets


def transformers() -> Any:
    """The package, without its bars and its advice.

    Raises:
        ConfigError: it is not installed.
    """
    package = assets.optional("transformers", "semantic")
    package.logging.set_verbosity_error()
    package.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers")
    return package


def first_line(error: Exception) -> str:
    """What an error of the package says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
