"""Inputs and outputs of the verbs that turn files into files: pairing, standard streams, progress, summary."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import typer

from codec.errors import CodecError

STANDARD = "-"
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One file to make; `-` stands for standard input or output."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a command line asks for: one file, or all files of a folder."""

    jobs: tuple[Job, ...]
    folder: bool
    force: bool
    left_out: str = ""  # what a folder holds besides, in a few words


def pair(source: str, target: str, suffixes: tuple[str, ...], suffix: str, *, force: bool) -> Jobs:
    """Which files to make of which, checked before anything slow is loaded.

    A folder is mirrored, its files with `suffixes` becoming files with `suffix`.

    Raises:
        CodecError: no such input, nothing to do in a folder, an output that exists (without `force`) or cannot be.
    """
    if source != STANDARD and os.path.isdir(source):
        return _mirror(source, target, suffixes, suffix, force)
    if source != STANDARD and not os.path.exists(source):
        raise CodecError(f"there is no file or folder {source}")
    if target != STANDARD and os.path.isdir(target):
        if source == STANDARD:
            raise CodecError(f"{target} is a folder: give the output a file name")
        target = str(Path(target, Path(source).name).with_suffix(suffix))
    if target == STANDARD:
        if sys.stdout.isatty():
            raise CodecError("standard output is a terminal: send it to a file or a program, or name a file")
    else:
        folder = Path(target).parent
        if not folder.is_dir():
            raise CodecError(f"{target} cannot be written: there is no folder {folder}")
        if os.path.isfile(target):
            if source != STANDARD and os.path.samefile(source, target):
                raise CodecError(f"{target} is the input: choose another output")
            if not force:
                raise CodecError(f"{target} exists: --force replaces it")
    return Jobs((Job(source, target),), False, force)


def _mirror(source: str, target: str, suffixes: tuple[str, ...], suffix: str, force: bool) -> Jobs:
    from codec import audio  # takes a moment that a single file need not wait for twice

    if target == STANDARD or os.path.isfile(target):
        raise CodecError(f"{source} is a folder, so the output must be a folder too, not {target}")
    found = audio.walk(source, suffixes, skip=target)
    if not found.files:
        besides = f", but {found.summary()}" if found.summary() else ""
        raise CodecError(f"{source} holds no files to work on ({', '.join(suffixes)}){besides}")
    plain = [Path(target, os.path.relpath(path, source)).with_suffix(suffix) for path in found.files]
    seen = Counter(plain)
    jobs = tuple(
        # a.wav and a.flac become a.wav.tok and a.flac.tok
        Job(path, str(made if seen[made] == 1 else made.with_name(os.path.basename(path) + suffix)))
        for path, made in zip(found.files, plain, strict=True)
    )
    return Jobs(jobs, True, force, found.summary())


def run(jobs: Jobs, work: Callable[[Job, Progress], str], done: str) -> None:
    """Do the jobs one after the other with a progress bar; a folder goes on after a failure and ends in a summary.

    Args:
        jobs: from `pair`.
        work: makes the file and says in a few words what it is.
        done: the past participle for the summary.

    Raises:
        CodecError: a single file failed.
        Exit: with 1, files of a folder failed.
    """
    with _bar() as bar:
        if not jobs.folder:
            (job,) = jobs.jobs
            note = _attempt(job, work, bar(job.source, None))
            typer.echo(f"{shown(job.target)}: {note}", err=job.target == STANDARD)
            return
        failed, existing = [], 0
        whole = bar("all files", len(jobs.jobs))
        for count, job in enumerate(jobs.jobs):
            whole(count, len(jobs.jobs))
            if os.path.exists(job.target) and not jobs.force:
                existing += 1
                continue
            try:
                os.makedirs(Path(job.target).parent, exist_ok=True)
                _attempt(job, work, bar(job.source, None))
            except CodecError as error:
                name = shown(job.source)
                failed.append(f"{name}: {str(error).removeprefix(f'{name}: ')}")
            except OSError as error:
                failed.append(f"{shown(job.target)}: {error.strerror}")
            except Exception as error:  # whatever one file does, the others are not to pay for it
                failed.append(f"{shown(job.source)}: {type(error).__name__} {error}")
    for line in failed:
        typer.echo(f"codec: {' '.join(line.split())}", err=True)
    made = len(jobs.jobs) - len(failed) - existing
    summary = f"{made} of {len(jobs.jobs)} files {done}, {len(failed)} failed"
    typer.echo(summary + (f", {existing} left alone because they exist (--force)" if existing else ""))
    if jobs.left_out:
        typer.echo(f"codec: left out: {jobs.left_out}", err=True)
    if failed:
        raise typer.Exit(1)


def shown(name: str) -> str:
    """A file's name for a message; bytes that are no UTF-8 as escapes."""
    return name.encode(errors="backslashreplace").decode()


def _attempt(job: Job, work: Callable[[Job, Progress], str], progress: Progress) -> str:
    try:
        return work(job, progress)
    except BrokenPipeError:
        raise
    except OSError as error:
        # the temporary file beside the target is no name that the user knows
        name, verb = (job.source, "read") if error.filename == job.source else (job.target, "written")
        raise CodecError(f"{shown(name)} cannot be {verb}: {error.strerror}") from error


@contextmanager
def reading(source: str) -> Iterator[str | BinaryIO]:
    """The path, or standard input as a file that can be sought in."""
    if source != STANDARD:
        yield source
        return
    if sys.stdin.isatty():
        raise CodecError("standard input is a terminal: send it a file or the output of a program")
    with tempfile.TemporaryFile() as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        yield spool


@contextmanager
def writing(target: str) -> Iterator[str | BinaryIO]:
    """The path, or a file whose content goes to standard output once it is complete."""
    if target != STANDARD:
        yield target
        return
    with tempfile.TemporaryFile() as spool:
        yield spool
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout.buffer)
        sys.stdout.buffer.flush()


@contextmanager
def _bar() -> Iterator[Callable[[str, int | None], Progress]]:
    """A factory of progress bars on standard error, silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda name, total: lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:

        def bar(name: str, total: int | None) -> Callable[[int, int | None], None]:
            for task in shown.tasks[1:]:
                shown.remove_task(task.id)
            task_id = shown.add_task(Path(name).name, total=total)
            return lambda done, total: shown.update(task_id, completed=done, total=total)

        yield bar
