"""Files that appear whole or not at all, and facts about this machine and process."""

import os
import platform
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

PathLike = str | os.PathLike[str]


@contextmanager
def atomic_write(path: PathLike) -> Iterator[BinaryIO]:
    """Opens a new binary file that takes the place of `path` only when the block ends without an exception.

    A path that exists and is no regular file (a device, a named pipe) is opened and written as it is, for there is
    nothing to replace.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    part = create_part(path)
    try:
        with open(part, "wb") as file:
            yield file
        commit_part(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def create_part(path: PathLike) -> Path:
    """Creates an empty file beside `path`, to be written and then given to `commit_part`.

    It has the permissions of the file that it will replace, or those of any new file.

    Raises:
        OSError: there is no such folder, or it cannot be written; `filename` is `path`.
    """
    target = Path(path).resolve()  # a symbolic link stays; what it points to is replaced
    part = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        error.filename = str(path)  # the name that the caller knows
        raise
    with suppress(OSError):
        os.chmod(part, stat.S_IMODE(target.stat().st_mode))
    return part


def commit_part(part: Path, path: PathLike) -> None:
    """Puts a written file in the place of `path`; a crash or power cut leaves the old one or the new one."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    target = Path(path).resolve()
    os.replace(part, target)
    with suppress(OSError):  # not every file system can sync a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def memory() -> int:
    """Bytes of this process that are resident now.

    Raises:
        OSError: this system does not say.
    """
    return _memory("VmRSS")


def peak_memory() -> int:
    """Bytes of this process that were resident at most; `reset_peak_memory` starts anew.

    Raises:
        OSError: this system does not say.
    """
    # not getrusage: its maximum is inherited from the process that started this one
    return _memory("VmHWM")


def reset_peak_memory() -> None:
    """Forgets the peak so far.

    Raises:
        OSError: this system cannot.
    """
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def machine() -> dict[str, Any]:
    """What figures were measured on: Python, system, processor, number of cores, load of the last minute."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def cpu_model() -> str:
    """Name of the processor."""
    return _cpu("model name") or platform.processor() or platform.machine()


def _cpu(field: str) -> str:
    """A field of the first processor; empty where this system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return ""
