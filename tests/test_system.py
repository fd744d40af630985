"""Files that appear whole or not at all, and facts about the machine."""

import mmap
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from codec import system
from codec.system import atomic_write


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def fail():
        with atomic_write(target) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    with atomic_write(target) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"


def test_atomic_write_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "none" / "a.bin"):
        pass
    assert caught.value.filename == str(tmp_path / "none" / "a.bin")


def test_atomic_write_does_not_replace_a_device():
    with atomic_write(os.devnull) as file:
        file.write(b"gone")
    assert not os.path.isfile(os.devnull)


def test_atomic_write_keeps_permissions_and_links(tmp_path):
    target, link = tmp_path / "a.bin", tmp_path / "link"
    with atomic_write(target) as file:
        file.write(b"new")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    target.chmod(0o600)
    link.symlink_to("a.bin")
    with atomic_write(link) as file:
        file.write(b"newer")
    assert link.is_symlink()
    assert target.read_bytes() == b"newer"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_memory_and_its_peak():
    before = system.memory()
    with mmap.mmap(-1, 64_000_000) as block:
        block.write(b"x" * len(block))
        held = system.memory()
    assert held - before > 60e6
    # the kernel counts pages thread by thread and adds up now and then
    assert system.peak_memory() > held - 2e6 > system.memory()


def test_the_peak_is_that_of_this_process_alone():
    ballast = np.ones(40_000_000)  # what a child must not inherit
    script = "from codec import system; print(system.peak_memory())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < ballast.nbytes


def test_the_processor_has_a_name():
    assert system.machine()["processor"] == system.cpu_model() != ""
