"""The native extension: how it is compiled, found, chosen and done without."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from conftest import LEVELS, use_level

from codec import native, ops
from codec.errors import BuildError, ConfigError
from codec.native import build
from codec.ops import reference


def search_is_right() -> bool:
    generator = torch.Generator().manual_seed(0)
    x, codebooks = (
        torch.randn(1, 200, 40, generator=generator),
        torch.randn(1, 2, 50, 40, generator=generator),
    )
    return torch.equal(ops.rvq_encode(x, codebooks), reference.rvq_encode(x, codebooks))


@pytest.fixture
def library(monkeypatch, tmp_path) -> Path:
    """Where a library is looked for in place of the real one; nothing is there."""
    path = tmp_path / build.LIBRARY.name
    monkeypatch.setattr(build, "LIBRARY", path)
    native.levels.cache_clear()
    yield path
    monkeypatch.undo()
    native.levels.cache_clear()
    native.level.cache_clear()


def refused(monkeypatch, message: str) -> None:
    """What is there, or is not, leads to one warning, an error where it is required, and right codes."""
    with use_level(monkeypatch, None):
        with pytest.warns(UserWarning, match=message) as caught:
            assert native.level() is None
        assert search_is_right()  # without another warning
    (warning,) = caught
    assert native.COST in str(warning.message)
    assert native.CURE in str(warning.message)
    assert native.describe().startswith("plain torch (")
    for value in ("require", "avx2"):
        with use_level(monkeypatch, value), pytest.raises(BuildError, match=f"CODEC_CPU={value}.*{message}"):
            native.level()
    with use_level(monkeypatch, "0"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.level() is None


def test_it_has_been_compiled_where_there_is_a_compiler():
    try:
        build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    assert list(native.levels())[-1] == "baseline"


def test_missing(library, monkeypatch):
    refused(monkeypatch, "has not been compiled")


def test_foreign(library, monkeypatch):
    library.write_bytes(b"\x7fELF of another world")
    refused(monkeypatch, "cannot be loaded")


def test_another_library(library, monkeypatch):
    import _ctypes_test  # a shared library without our functions

    shutil.copy(_ctypes_test.__file__, library)
    refused(monkeypatch, "cannot be loaded")


@pytest.mark.skipif(not build.LIBRARY.exists(), reason="it has not been compiled")
def test_stale(library, monkeypatch):
    shutil.copy(Path(build.FOLDER, library.name), library)
    monkeypatch.setattr(build, "digest", lambda: "another")
    refused(monkeypatch, "is not of the present sources")


def test_the_digest_follows_every_source(monkeypatch, tmp_path):
    for name in (*build.SOURCES, "build.py"):
        shutil.copy(build.FOLDER / name, tmp_path)
    assert {path.name for path in build.FOLDER.glob("*.[ch]*")} == set(build.SOURCES)
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    digests = {build.digest()}
    for name in (*build.SOURCES, "build.py"):
        with open(tmp_path / name, "a") as file:
            file.write("\n")
        digests.add(build.digest())
    assert len(digests) == 2 + len(build.SOURCES)


@pytest.mark.parametrize("name", LEVELS)
def test_the_environment_chooses(name, monkeypatch):
    with use_level(monkeypatch, name):
        assert native.level().name == name
        assert native.describe().startswith(f"{name} (of ")
        assert search_is_right()
    for value in (None, "require"):
        with use_level(monkeypatch, value):
            assert native.level().name == LEVELS[0]
    with use_level(monkeypatch, "0"):
        assert native.level() is None
        assert native.describe() == "plain torch (CODEC_CPU=0)"
    with use_level(monkeypatch, "pentium"), pytest.raises(ConfigError, match=f"one of .*{name}.*'pentium'"):
        native.level()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LEVELS, "0"])
def test_streams_code_as_files_do_on_every_level(name, tiny_model, monkeypatch):
    monkeypatch.setenv("CODEC_CPU", name)
    command = [sys.executable, "-c", "from codec.cli import main; main()", "verify", str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"no C\+\+ compiler found \(looked for g\+\+"):
        build.build(tmp_path / "library.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="looked for no-such-compiler"):
        build.build(tmp_path / "library.so")
    assert not list(tmp_path.iterdir())


def compiler_without(flag: str, monkeypatch, tmp_path: Path) -> None:
    """The next compiler knows all but this flag."""
    try:
        real = build.find_compiler()
    except BuildError as error:
        pytest.skip(str(error))
    fake = tmp_path / "old"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *{flag}*) echo "error: unrecognized option {flag}" >&2; exit 1;; esac\n'
        f'exec {real} "$@"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))


@pytest.mark.slow
def test_an_old_compiler_makes_the_levels_it_knows(library, monkeypatch, tmp_path):
    if "avx512_vnni" not in build.LEVELS:
        pytest.skip("there is one level only")
    compiler_without("-mavx512", monkeypatch, tmp_path)
    messages = build.build(library)
    assert [message.split(" is left out: ")[0] for message in messages] == [
        "level avx512_vnni",
        "level avx512",
    ]
    assert all("unrecognized option" in message for message in messages)
    assert set(native.levels()) <= {"avx2", "baseline"}
    with use_level(monkeypatch, "baseline"):
        assert search_is_right()


def test_a_compiler_that_is_too_old_is_named(monkeypatch, tmp_path):
    compiler_without("-std=c++17", monkeypatch, tmp_path)
    with pytest.raises(BuildError, match=r"old failed: error: unrecognized option -std=c\+\+17"):
        build.build(tmp_path / "library.so")


def test_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    compiler_without("none", monkeypatch, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="cannot write"):
        build.build(tmp_path / "file" / "library.so")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
@pytest.mark.parametrize("compiler", [name for name in ("g++", "clang++") if shutil.which(name)])
def test_levels_share_no_code(compiler, tmp_path):
    """What the linker would merge could be of a level that the processor cannot run."""
    build._compile(shutil.which(compiler), tmp_path / "library.so")
    for name in build.LEVELS:
        listed = subprocess.run(
            ["nm", tmp_path / f"{name}.o"], capture_output=True, text=True, check=True
        ).stdout
        kinds = {line.split()[-1]: line.split()[-2] for line in listed.splitlines()}
        shared = [
            symbol for symbol, kind in kinds.items() if kind in "uvVwW" and not symbol.startswith("DW.ref.")
        ]
        assert not shared
        assert [symbol for symbol, kind in kinds.items() if kind in "BDRT"] == [f"codec_level_{name}"]
