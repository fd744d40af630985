"""Compiles a source file with a C interface into a shared library, once, in a per-user cache.

Neither torch's headers nor its version matter to such a library. It lies in the cache under the hash of its sources,
flags and processor; it is written under a lock that a killed process releases, then renamed into place.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from codec.errors import BuildError


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
