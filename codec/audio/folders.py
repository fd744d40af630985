"""One walk through folders for encoding, evaluation and training: regular files, each once, and what is left out."""

import os
import stat
from collections import Counter
from dataclasses import dataclass, field

_KINDS = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@dataclass(slots=True)
class Walk:
    """What lies below a folder.

    Attributes:
        files: paths of the files with the suffixes that were asked for, in a stable order.
        left_out: path -> why, of links that lead nowhere or to what was seen before, of pipes and other things that
            are no files, and of folders that cannot be read.
        others: suffix -> number of files that have it and were not asked for.
    """

    files: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """What was left out, in a few words; empty for nothing."""
        reasons = Counter(self.left_out.values())
        parts = [
            f"{count} {kind}" for kind, count in [*sorted(self.others.items()), *sorted(reasons.items())]
        ]
        return ", ".join(parts)


def walk(folder: str | os.PathLike[str], suffixes: tuple[str, ...], skip: str | None = None) -> Walk:
    """Finds the files below a folder; links are followed, and whatever they lead to is taken once.

    Args:
        folder: where to begin.
        suffixes: of the files, in small letters; names that begin with a dot are passed over.
        skip: a folder that is left alone, such as the one that takes the results.
    """
    found = Walk()
    seen = {_key(os.stat(folder))}
    skipped = _key(os.stat(skip)) if skip and os.path.isdir(skip) else None
    folders: list[str] = [os.fspath(folder)]
    links: list[str] = []

    def take(path: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            found.left_out[path] = "broken link"
            return
        is_folder, suffix = stat.S_ISDIR(status.st_mode), os.path.splitext(path)[1].lower()
        if is_folder and _key(status) == skipped:
            return
        if not is_folder and suffix not in suffixes:
            found.others[suffix.removeprefix(".") or "without a suffix"] += 1
        elif not is_folder and not stat.S_ISREG(status.st_mode):
            found.left_out[path] = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        elif _key(status) in seen:
            found.left_out[path] = "found under another name too"
        else:
            seen.add(_key(status))
            (below if is_folder else found.files).append(path)

    while folders or links:
        below: list[str] = []
        if folders:
            path = folders.pop()
            try:
                names = sorted(os.listdir(path))
            except OSError as error:
                found.left_out[path] = f"unreadable ({error.strerror})"
                continue
            for name in (name for name in names if not name.startswith(".")):
                inner = os.path.join(path, name)
                if os.path.islink(inner):
                    links.append(inner)  # last, so that what has a place of its own is named by that
                else:
                    take(inner)
        else:
            take(links.pop(0))
        folders += reversed(below)
    return found


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
