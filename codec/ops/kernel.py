"""The search in CUDA: compiled at the first CUDA tensor, or ahead of time, into a per-user cache.

``CODEC_CUDA``: ``require`` makes any failure an error, ``0`` forbids the library. Without it plain torch does its work.
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

from codec.errors import BuildError, ConfigError
from codec.ops.builder import Recipe, build

_PACKAGE = Path(__file__).resolve().parents[1]
FAT = ("80", "90")  # what a machine without a GPU compiles for


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


def mode() -> str:
    """What ``CODEC_CUDA`` asks for: ``require``, ``0`` or nothing."""
    value = os.environ.get("CODEC_CUDA", "")
    if value not in ("", "0", "require"):
        raise ConfigError(f"CODEC_CUDA must be 0, require or unset; got {value!r}")
    return value


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


@functools.cache
def cuda_library(capability: tuple[int, int]) -> ctypes.CDLL | None:
    """The CUDA search for GPUs of a compute capability, compiled if necessary; see the module's docstring."""
    wanted = mode()
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


def describe() -> str:
    """What searches CUDA tensors, and why."""
    if mode() == "0":
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
    """Say what is in use; with ``--build`` compile before."""
    parser = argparse.ArgumentParser(prog="python -m codec.ops.kernel", description=__doc__.split("\n")[0])
    parser.add_argument("--build", action="store_true", help="compile now, ahead of the first use")
    if parser.parse_args(arguments).build:
        start = time.perf_counter()
        try:
            path = build(cuda_recipe(FAT), verbose=True)
            print(f"{path} ({time.perf_counter() - start:.1f} s)")
        except BuildError as error:
            print(error, file=sys.stderr)
    print(describe())
    return 0


if __name__ == "__main__":
    sys.exit(main())
