"""How the extension is compiled: the same sources for several levels of instructions, in one shared library.

Run by `pip install` (hatch_build.py) and by ``python -m codec.native``. Nothing here looks at the processor at hand.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from codec.errors import BuildError

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "kernels.so"
SOURCES = ("dispatch.cpp", "layers.h", "level.cpp", "level.h", "search.h", "simd.h")
COMPILERS = ("g++", "clang++", "c++")

# numbers must be rounded as specified, hence no contraction to fused operations
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fPIC",
    "-fvisibility=hidden",
    "-pthread",
    "-w",
)
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl")
# flags of each level, best first; the last one runs on every processor of the architecture
_X86 = {"avx512_vnni": (*_AVX512, "-mavx512vnni"), "avx512": _AVX512, "avx2": _AVX2, "baseline": ()}
LEVELS = {"x86_64": _X86, "amd64": _X86}.get(platform.machine().lower(), {"baseline": ()})


def digest() -> str:
    """Tells libraries apart that are made of other sources, with other flags or by another version of this file."""
    known = hashlib.sha256()
    for name in (*SOURCES, Path(__file__).name):
        known.update(Path(FOLDER, name).read_bytes())
    return known.hexdigest()[:20]


def find_compiler(names: Sequence[str] = COMPILERS) -> str:
    """Path of the first C++ compiler that is there; ``CXX`` comes before all.

    Raises:
        BuildError: there is none.
    """
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else names:
        if found := shutil.which(name):
            return found
    raise BuildError(f"no C++ compiler found (looked for {chosen or ', '.join(names)})")


def build(target: Path = LIBRARY) -> list[str]:
    """Compile the extension; it is put into its place whole or not at all.

    Args:
        target: the shared library to make.

    Returns:
        One line for each level that the compiler is too old for, and that is left out.

    Raises:
        BuildError: there is no compiler, it cannot compile even the last level, or `target` cannot be written.
    """
    if sys.platform == "win32":
        raise BuildError("the extension is not made for Windows")
    compiler = find_compiler()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as name:
            made = Path(name, target.name)
            left_out = _compile(compiler, made)
            os.replace(made, target)
    except OSError as error:
        raise BuildError(f"cannot write {target}: {error}") from error
    return left_out


def _compile(compiler: str, library: Path) -> list[str]:
    def object_of(level: str) -> str:
        return str(library.with_name(f"{level}.o"))

    def compile_level(level: str) -> str:
        source = ("-c", str(FOLDER / "level.cpp"), f"-DCODEC_LEVEL={level}", "-o", object_of(level))
        return _run(compiler, *_FLAGS, *LEVELS[level], *source)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = dict(zip(LEVELS, pool.map(compile_level, LEVELS), strict=True))
    if errors["baseline"]:
        raise BuildError(f"{compiler} failed: {errors['baseline']}")
    made = [level for level, error in errors.items() if not error]
    defines = (
        f"-DCODEC_LEVELS={' '.join(f'LEVEL({level})' for level in made)}",
        f'-DCODEC_BUILD="{digest()}"',
    )
    parts = (str(FOLDER / "dispatch.cpp"), *map(object_of, made))
    if error := _run(compiler, *_FLAGS, "-shared", *defines, *parts, "-o", str(library)):
        raise BuildError(f"{compiler} failed: {error}")
    return [f"level {level} is left out: {error.splitlines()[0]}" for level, error in errors.items() if error]


def _run(*command: str) -> str:
    """What the command complained of; nothing where it succeeded."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stderr or done.stdout or "no message").strip()[-2000:] if done.returncode else ""
