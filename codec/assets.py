"""What comes with the package: where conf/, recipes/, cuda/ and weights/ are, and how its extras are installed."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

from codec.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """Folder that holds `conf`, `recipes` and `cuda`: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "_assets"
    return installed if installed.is_dir() else _PACKAGE.parent


def weights() -> Path:
    """Folder of the weights that come with the package."""
    return _PACKAGE / "weights"


def install(extra: str) -> str:
    """The shell command that installs what an extra of this package brings, for error messages.

    A checkout installs itself again with the extra. An installed wheel names the packages: asked for `codec[extra]`,
    pip could take a stranger's package of this name from its index.
    """
    if root() == _PACKAGE.parent:
        return f"pip install -e {shlex.quote(f'{root()}[{extra}]')}"
    from importlib.metadata import requires

    parts = (re.fullmatch(r"(.+?)\s*;\s*extra == ['\"](.+)['\"]", line) for line in requires("codec") or ())
    return " ".join(["pip install", *(shlex.quote(part[1]) for part in parts if part and part[2] == extra)])


def optional(module: str, extra: str) -> Any:
    """Imports a module of a package that an extra brings.

    Raises:
        ConfigError: it is not installed, or does not load.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library that does not fit the installed torch
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ConfigError(f"{package} is not installed: {install(extra)}") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{package} is installed and cannot be loaded: {reason}") from error
