"""Compiles the fast searches once into a per-user cache and loads them: rvq_encode.cpp and cuda/rvq_encode.cu.

They and linear.cpp, for streams, are shared libraries with a C interface, so one compiler call makes one and neither
torch's headers nor its version matter. A library lies in the cache under the hash of its sources, flags and
processor; it is written under a lock that a killed process releases, then renamed into place.

The C++ libraries take seconds to compile, too long for a short command, so they are compiled when asked for
(``python -m codec.ops.kernel --build``, `prepare`) and used wherever they are found. The CUDA library is compiled at
the first CUDA tensor. ``CODEC_CPU`` and ``CODEC_CUDA``: ``require`` compiles if necessary and makes any failure
an error, ``0`` forbids the library. Without a library plain torch does its work.
"""

import argparse
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parents[1]
FAT = ("80", "90")  # what a machine without a GPU compiles for
# the exact distance must be rounded as the specification says, the sums of a matrix product as fused ones
CPU = {"rvq_encode": "-ffp-contract=off", "linear": "-ffp-contract=fast"}


class BuildError(RuntimeError):
    """A library cannot be compiled or loaded; the message says why."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a library is made; two equal recipes make the same library."""

    name: str
    sources: tuple[Path, ...]  # the first one is compiled, the others are included by it
    compiler: tuple[str, ...]  # names to look for, paths too
    flags: tuple[str, ...]
    machine: str  # what "native" means

    @property
    def path(self) -> Path:
        """Where the library lies once it is made."""
        digest = hashlib.sha256(repr((self.flags, self.machine)).encode())
        for source in self.sources:
            digest.update(source.read_bytes())
        return cache_dir() / f"{self.name}-{digest.hexdigest()[:20]}.so"

    def find_compiler(self) -> str:
        """Path of the first compiler that is there."""
        for name in self.compiler:
            if found := shutil.which(name):
                return found
        raise BuildError(f"no compiler found (looked for {', '.join(self.compiler)})")


def cache_dir() -> Path:
    """The per-user folder of compiled libraries; ``CODEC_CACHE`` moves it."""
    if chosen := os.environ.get("CODEC_CACHE"):
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(home) if home else Path.home() / ".cache") / "codec"


def cpu_recipe(name: str = "rvq_encode") -> Recipe:
    """A C++ library, for the processor of this machine."""
    compilers = tuple(filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))
    flags = ("-std=c++17", "-O3", "-march=native", CPU[name], "-w", "-shared", "-fPIC", "-pthread")
    return Recipe(f"{name}-cpu", (Path(__file__).with_name(f"{name}.cpp"),), compilers, flags, _processor())


def cuda_recipe(architectures: Sequence[str]) -> Recipe:
    """The CUDA search for some architectures ("80", "90"), with PTX of the last for later ones."""
    folder = _PACKAGE / "_assets" / "cuda"
    folder = folder if folder.is_dir() else _PACKAGE.parent / "cuda"
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    compilers = ("nvcc", *(str(Path(home, "bin", "nvcc")) for home in homes if home))
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    targets.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    flags = ("-std=c++17", "-O3", *targets, "-shared", "-Xcompiler=-fPIC", "-cudart=static")
    sources = tuple(folder / name for name in ("rvq_encode.cu", "hardware.cuh"))
    return Recipe("rvq_encode-cuda", sources, compilers, flags, f"cuda {torch.version.cuda}")


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    keys = ("vendor_id", "model name", "flags", "Features")
    return platform.machine() + "".join(dict.fromkeys(line for line in lines if line.startswith(keys)))


def build(recipe: Recipe, *, verbose: bool = False) -> Path:
    """Compile a library unless it is there already; returns its path.

    Raises:
        BuildError: there is no compiler, it fails, or the cache cannot be written.
    """
    path = recipe.path
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock")):
            if not path.exists():
                _compile(recipe, path, verbose)
    except OSError as error:
        raise BuildError(f"cannot write {path}: {error}") from error
    return path


def _compile(recipe: Recipe, path: Path, verbose: bool) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        output = Path(folder, path.name)
        command = [recipe.find_compiler(), *recipe.flags, str(recipe.sources[0]), "-o", str(output)]
        if verbose:
            print(" ".join(command), flush=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
        os.replace(output, path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the system releases the lock of a process that dies."""
    try:
        import fcntl
    except ImportError:  # two processes may then compile the same library; the last rename wins
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def mode(variable: str) -> str:
    """What ``CODEC_CPU`` or ``CODEC_CUDA`` asks for: ``require``, ``0`` or nothing."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "require"):
        raise ValueError(f"{variable} must be 0, require or unset; got {value!r}")
    return value


@functools.cache
def cpu_library(name: str = "rvq_encode") -> ctypes.CDLL | None:
    """A C++ library if it has been compiled and is allowed; see the module's docstring."""
    wanted = mode("CODEC_CPU")
    if wanted == "0":
        return None
    recipe = cpu_recipe(name)
    try:
        if wanted == "require":
            build(recipe)
        return _load_cpu(recipe.path) if recipe.path.exists() else None
    except (BuildError, OSError) as error:
        if wanted == "require":
            raise BuildError(f"CODEC_CPU=require: {error}") from error
        warnings.warn(f"the compiled {name} is not used, plain torch is: {error}", stacklevel=2)
        return None


def _load_cpu(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    if path.name.startswith("linear"):
        for function in (library.codec_linear, library.codec_linear_half):
            function.argtypes, function.restype = [pointer] * 4 + [long] * 4, None
    else:
        library.codec_rvq_encode.argtypes = [pointer] * 3 + [long] * 4 + [integer] * 2
    return library


def prepare() -> bool:
    """Compile the C++ libraries if they can be (training and benchmarks do); whether they are used from now on."""
    if mode("CODEC_CPU") != "0":
        try:
            for name in CPU:
                if not (recipe := cpu_recipe(name)).path.exists():
                    build(recipe)
                    cpu_library.cache_clear()
        except BuildError as error:
            warnings.warn(f"the compiled search is not used, plain torch is: {error}", stacklevel=2)
    return all(cpu_library(name) is not None for name in CPU)


def describe() -> dict[str, str]:
    """For each device, which search is in use and why."""
    return {"cpu": _describe_cpu()}


def _describe_cpu() -> str:
    if mode("CODEC_CPU") == "0":
        return "plain torch (CODEC_CPU=0)"
    if cpu_library() is not None:
        return f"compiled C++, {cpu_recipe().path}"
    return "plain torch (the C++ search has not been compiled: python -m codec.ops.kernel --build)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what this machine has compilers for; ``--build`` is the only thing to ask for."""
    parser = argparse.ArgumentParser(prog="python -m codec.ops.kernel", description=__doc__.split("\n")[0])
    parser.add_argument("--build", action="store_true", help="compile now, ahead of the first use")
    if parser.parse_args(arguments).build:
        for recipe in map(cpu_recipe, CPU):
            start = time.perf_counter()
            try:
                path = build(recipe, verbose=True)
                print(f"{recipe.name}: {path} ({time.perf_counter() - start:.1f} s)")
            except BuildError as error:
                print(f"{recipe.name}: {error}", file=sys.stderr)
    for device, text in describe().items():
        print(f"{device}: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
