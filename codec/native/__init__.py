"""The extension in C++: codebook search and layers, for the instructions that this processor has.

`pip install` compiles it, for several levels of instructions (build.py); the best one that the processor can run is
chosen here. ``CODEC_CPU`` overrides: ``0`` forbids the extension, ``require`` makes its absence an error, and the name
of a level (`levels`) chooses that one. Without the extension plain torch does its work, slower. Nothing is compiled or
written at run time; after a change of the sources ``python -m codec.native`` compiles anew.
"""

from __future__ import annotations

import ctypes
import functools
import os
import warnings
from functools import partial

from codec.errors import BuildError, ConfigError
from codec.native import build

COST = "streaming takes about twice as long and the codebook search 2 to 12 times as long"
CURE = "install a C++ compiler (g++ or clang++) and run: python -m codec.native"


class Level:
    """The functions of the extension for one level of instructions; see dispatch.cpp.

    Attributes:
        name: of the level.
        lanes: floats in a vector, and outputs in a narrow panel of weights.
        panel: outputs in a wide panel.
    """

    def __init__(self, library: ctypes.CDLL, address: int) -> None:
        self.name: str = library.codec_name(address).decode()
        self.lanes: int = library.codec_lanes(address)
        self.panel: int = library.codec_panel(address)
        self.rvq_encode = partial(library.codec_rvq_encode, address)
        self.convolve = partial(library.codec_convolve, address)
        self.functions = partial(library.codec_functions, address)
        self.elu = partial(library.codec_elu, address)
        self.lstm = partial(library.codec_lstm, address)


@functools.cache
def level() -> Level | None:
    """The level in use; None without the extension, after one warning that says what it costs and how to get it.

    Raises:
        BuildError: the extension is missing where ``CODEC_CPU`` requires it.
        ConfigError: ``CODEC_CPU`` names something else, or a level that this processor cannot run.
    """
    wanted = os.environ.get("CODEC_CPU", "")
    if wanted == "0":
        return None
    try:
        there = levels()
    except BuildError as error:
        if wanted:
            raise BuildError(f"CODEC_CPU={wanted}: {error}; {CURE}") from error
        warnings.warn(f"{error}: {COST}; {CURE}", stacklevel=2)
        return None
    if wanted in ("", "require"):
        return next(iter(there.values()))
    if wanted not in there:
        raise ConfigError(f"CODEC_CPU must be 0, require or one of {', '.join(there)} here; got {wanted!r}")
    return there[wanted]


@functools.cache
def levels() -> dict[str, Level]:
    """The levels that the extension has and this processor can run, by name, best first.

    Raises:
        BuildError: the extension is missing, or is not of these sources or for this system.
    """
    if not build.LIBRARY.exists():
        raise BuildError("the native extension has not been compiled")
    try:
        library = ctypes.CDLL(str(build.LIBRARY))
        stale = _declare(library) != build.digest()
    except (OSError, AttributeError) as error:
        raise BuildError(f"the native extension cannot be loaded ({error})") from error
    if stale:
        raise BuildError(f"the native extension {build.LIBRARY} is not of the present sources")
    found: dict[str, Level] = {}
    while address := library.codec_level(len(found)):
        one = Level(library, address)
        found[one.name] = one
    return found


def _declare(library: ctypes.CDLL) -> str:
    """Tells ctypes the types of the functions in dispatch.cpp; returns which build it is."""
    pointer, long, integer, text = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_char_p
    library.codec_build.restype = library.codec_name.restype = text
    library.codec_level.restype = pointer
    library.codec_name.argtypes = library.codec_lanes.argtypes = library.codec_panel.argtypes = [pointer]
    library.codec_rvq_encode.argtypes = [pointer] * 4 + [long] * 4 + [integer] * 2
    library.codec_convolve.argtypes = [pointer] * 3 + [integer, long] + [pointer] * 2 + [long] * 7 + [integer]
    library.codec_functions.argtypes = [pointer] * 4
    library.codec_functions.restype = None
    library.codec_elu.argtypes = [pointer] * 3 + [long]
    library.codec_elu.restype = None
    library.codec_lstm.argtypes = [pointer] * 7 + [long] * 3
    library.codec_lstm.restype = library.codec_convolve.restype = None
    return str(library.codec_build().decode())


def describe() -> str:
    """What is in use, and why."""
    if os.environ.get("CODEC_CPU") == "0":
        return "plain torch (CODEC_CPU=0)"
    try:
        there = levels()
    except BuildError as error:
        return f"plain torch ({error}; {CURE})"
    now = level()
    assert now is not None
    return f"{now.name} (of {', '.join(there)})"
