"""The CUDA sources as nvcc compiles them: no register is spilled, and every kernel is there for every architecture."""

import re
import subprocess
from pathlib import Path

import pytest

from codec.errors import BuildError
from codec.ops import kernel

STEPS = (1, 2, 3, 5, 9, 17, 33)


def report(folder: Path, architecture: str) -> dict[str, tuple[int, int]]:
    """Registers and bytes of spills of each kernel."""
    recipe = kernel.cuda_recipe((architecture,))
    try:
        compiler = recipe.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    flags = [flag for flag in recipe.flags if flag not in ("-shared", "-cudart=static")]
    flags = [flag for flag in flags if not flag.startswith("-gencode")]
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    command = [compiler, *flags, target, "-cubin", "-Xptxas=-v", str(recipe.sources[0])]
    done = subprocess.run([*command, "-o", str(folder / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    found = {}
    pattern = r"Compiling entry function '(\S+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) reg"
    for name, stores, loads, registers in re.findall(pattern, done.stderr, re.DOTALL):
        shape = re.search(r"5ShapeI(\w+?)EEEE", name)
        numbers = "x".join(re.findall(r"Li(\d+)", shape[1] + "E")) if shape else ""
        plain = next((n for n in ("accumulate", "prepare", "frame") if n in name), "")
        found[plain or numbers] = int(registers), int(stores) + int(loads)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("architecture", kernel.FAT)
def test_compiles_without_spills(architecture: str, tmp_path: Path) -> None:
    found = report(tmp_path, architecture)
    for name, (registers, spilled) in sorted(found.items()):
        print(f"sm_{architecture} {name}: {registers} registers, {spilled} bytes spilled")
    assert not any(spilled for _, spilled in found.values())
    assert {"accumulate", "prepare", "frame"} < set(found)
    shapes = [tuple(map(int, name.split("x"))) for name in found if name[0].isdigit()]
    assert sorted(shape[0] for shape in shapes) == sorted(STEPS * 2)  # for many vectors and for few
    for name, (registers, _) in found.items():
        if name[0].isdigit():
            _, _, row_warps, code_warps, _, blocks = map(int, name.split("x"))
            # registers are dealt out by eight for each thread
            assert -(-registers // 8) * 8 * row_warps * code_warps * 32 * blocks <= 65_536
