"""The compiled libraries and whether they are used: the search for processors and GPUs, layers for streams.

The C++ libraries take seconds to compile, too long for a short command, so they are compiled when asked for
(``python -m codec.ops.kernel --build``, `prepare`) and used wherever they are found. The CUDA library is compiled at
the first CUDA tensor. ``CODEC_CPU`` and ``CODEC_CUDA``: ``require`` compiles if necessary and makes any failure
an error, ``0`` forbids the library. Without a library plain torch does its work.
"""

import argparse
import ctypes
import functools
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from codec.errors import ConfigError
from codec.ops.builder import BuildError, Recipe, build
from codec.system import cpu_features

_PACKAGE = Path(__file__).resolve().parents[1]
FAT = ("80", "90")  # what a machine without a GPU compiles for
CPU = ("rvq_encode", "layers")  # the C++ libraries


def cpu_recipe(name: str = "rvq_encode") -> Recipe:
    """A C++ library, for the processor of this machine."""
    compilers = tuple(filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++")))
    # numbers must be rounded as specified, hence no contraction to fused operations
    flags = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-pthread")
    return Recipe(f"{name}-cpu", (Path(__file__).with_name(f"{name}.cpp"),), compilers, flags, cpu_features())


def cuda_recipe(architectures: Sequence[str]) -> Recipe:
    """The CUDA search for some architectures ("80", "90"), with PTX of the last one for later ones."""
    folder = _PACKAGE / "_assets" / "cuda"
    folder = folder if folder.is_dir() else _PACKAGE.parent / "cuda"
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    compilers = ("nvcc", *(str(Path(home, "bin", "nvcc")) for home in homes if home))
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    targets.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    flags = ("-std=c++17", "-O3", *targets, "-shared", "-Xcompiler=-fPIC", "-cudart=static")
    sources = tuple(folder / n for n in ("rvq_encode.cu", "search.cuh", "frame.cuh", "hardware.cuh"))
    return Recipe("rvq_encode-cuda", sources, compilers, flags, f"cuda {torch.version.cuda}")


def mode(variable: str) -> str:
    """What ``CODEC_CPU`` or ``CODEC_CUDA`` asks for: ``require``, ``0`` or nothing."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "require"):
        raise ConfigError(f"{variable} must be 0, require or unset; got {value!r}")
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
    if path.name.startswith("layers"):
        library.codec_functions.argtypes = [pointer] * 3
        library.codec_convolve.argtypes = (
            [pointer] * 2 + [integer, long] + [pointer] * 2 + [long] * 7 + [integer]
        )
        library.codec_elu.argtypes = [pointer] * 2 + [long]
        library.codec_lstm.argtypes = [pointer] * 6 + [long] * 3
    else:
        library.codec_rvq_encode.argtypes = [pointer] * 3 + [long] * 4 + [integer] * 2
    return library


def declare_cuda(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tells ctypes the types of the functions in cuda/rvq_encode.cu."""
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.codec_rvq_workspace.argtypes = [integer] * 5
    library.codec_rvq_workspace.restype = long
    sizes = [integer, long, integer, integer, integer]  # groups, rows, dim, stages, size
    library.codec_rvq_encode_cuda.argtypes = [pointer] * 4 + sizes + [integer, integer, pointer]
    library.codec_rvq_encode_cuda.restype = ctypes.c_char_p
    library.codec_rvq_accumulate.argtypes = [pointer] * 6 + sizes + [integer, pointer]
    library.codec_rvq_accumulate.restype = ctypes.c_char_p
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


@functools.cache
def cuda_library(capability: tuple[int, int]) -> ctypes.CDLL | None:
    """The CUDA search for GPUs of a compute capability, compiled if necessary; see the module's docstring."""
    wanted = mode("CODEC_CUDA")
    if wanted == "0":
        return None
    try:
        recipe = _cuda_recipe_for(capability)
        ready = next((r.path for r in (recipe, cuda_recipe(FAT)) if r.path.exists()), None)
        return declare_cuda(ctypes.CDLL(str(ready or build(recipe))))
    except (BuildError, OSError) as error:
        if wanted == "require":
            raise BuildError(f"CODEC_CUDA=require: {error}") from error
        warnings.warn(f"the CUDA search is not used, plain torch is: {error}", stacklevel=2)
        return None


def _cuda_recipe_for(capability: tuple[int, int]) -> Recipe:
    if torch.version.cuda is None:
        raise BuildError("torch is not built for CUDA")
    if capability < (8, 0):
        raise BuildError(f"it needs compute capability 8.0, the GPU has {capability[0]}.{capability[1]}")
    return cuda_recipe(("90",) if capability >= (9, 0) else ("80",))


def describe() -> dict[str, str]:
    """For each device, which search is in use and why."""
    return {"cpu": _describe_cpu(), "cuda": _describe_cuda()}


def _describe_cpu() -> str:
    if mode("CODEC_CPU") == "0":
        return "plain torch (CODEC_CPU=0)"
    if cpu_library() is not None:
        return f"compiled C++, {cpu_recipe().path}"
    return "plain torch (the C++ search has not been compiled: python -m codec.ops.kernel --build)"


def _describe_cuda() -> str:
    if mode("CODEC_CUDA") == "0":
        return "plain torch (CODEC_CUDA=0)"
    if not torch.cuda.is_available():
        fat = cuda_recipe(FAT).path
        return f"no CUDA device (compiled for one: {fat})" if fat.exists() else "no CUDA device"
    try:
        recipe = _cuda_recipe_for(torch.cuda.get_device_capability())
        for ready in (recipe, cuda_recipe(FAT)):
            if ready.path.exists():
                return f"compiled CUDA, {ready.path}"
        return f"compiled CUDA, made at the first CUDA tensor by {recipe.find_compiler()}"
    except BuildError as error:
        return f"plain torch ({error})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile what this machine has compilers for; ``--build`` is the only thing to ask for."""
    parser = argparse.ArgumentParser(prog="python -m codec.ops.kernel", description=__doc__.split("\n")[0])
    parser.add_argument("--build", action="store_true", help="compile now, ahead of the first use")
    if parser.parse_args(arguments).build:
        for recipe in (*map(cpu_recipe, CPU), cuda_recipe(FAT)):
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
