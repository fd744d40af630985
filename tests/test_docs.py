"""The pages say what is: their code runs, their commands exist, their figures are those of the files beside them."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import typer

from codec.bench.quantizers import ENTRIES
from codec.build import PARTS
from codec.cli import app
from codec.quantizers.codebook import INITS, OPTIONS
from codec.train.compose import compose
from codec.train.config import parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    *sorted(DOCS.glob("*.md")),
]


def test_every_quantizer_and_every_option_has_a_row() -> None:
    page = (DOCS / "quantizers.md").read_text()
    for name in PARTS["quantizer"]:
        assert re.search(rf"^\| `{name}` \| [^|]+ \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE), name
    choice, found = "", []
    for first, option in re.findall(r"^\| (`\w+`)? ?\| `(\w+)` \|", page, re.MULTILINE):
        choice = first.strip("`") or choice
        found.append((choice, option))
    options = [(name, option) for name, many in OPTIONS.items() for option in many]
    assert sorted(found) == sorted([*options, *(("init", name) for name in INITS)])


def test_the_table_is_that_of_the_file() -> None:
    page = (DOCS / "quantizers.md").read_text()
    with (DOCS / "results" / "quantizers.csv").open() as file:
        rows = {(row["quantizer"], row["data"]): row for row in csv.DictReader(file)}
    assert list(dict.fromkeys(name for name, _ in rows)) == list(ENTRIES)
    for name in ENTRIES:
        white, latents = rows[name, "gaussian"], rows[name, "latents"]
        cells = re.search(rf"^\| `{re.escape(name)}` \| [\d, ]+ \| (.*) \|$", page, re.MULTILINE)
        assert cells is not None, name
        assert cells[1].split(" | ") == [
            f"{float(white['sqnr_db']):.2f}",
            f"{float(latents['sqnr_db']):.2f}",
            f"{float(latents['usage']):.0%}",
            f"{float(latents['ns_per_vector']):,.0f}",
            f"{float(latents['ms_per_step']):.1f}",
            f"{int(latents['parameters']):,}",
        ]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in a language; commands have none."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_python_runs_as_it_stands(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(block, names)


def commands(program: str) -> list[str]:
    """Every call of a program in the pages, continued lines joined."""
    found = []
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.replace("\\\n", " ").splitlines():
                parts = re.split(r"&&|;|\|(?!\|)", re.sub(r"\s#.*", "", line))
                found += [part.strip() for part in parts if part.strip().startswith(f"{program} ")]
    return found


@pytest.mark.parametrize("line", sorted(set(commands("codec"))))
def test_commands_are_those_that_there_are(line: str) -> None:
    """Each option and its value are read by the command line itself; nothing is run."""
    _, verb, *arguments = shlex.split(re.sub(r"\$\w+", "name", line))
    if verb == "train":
        return  # its arguments are settings
    command: Any = typer.main.get_command(app).commands[verb]
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(verb, arguments)


TRAINING = sorted(
    {*commands("python train.py"), *(x for x in commands("codec") if x.startswith("codec train"))}
)


@pytest.mark.parametrize("line", TRAINING)
def test_settings_of_runs_are_those_that_there_are(line: str) -> None:
    """Composed and checked as a run would, one after the other where it is a sweep."""
    settings = shlex.split(line)[2:]
    if "$SMALL" in settings or settings == ["--help"] or "--config-dir" in settings or "NAME" in line:
        return  # a shell's variable, the help, and the plug-ins that tests/test_plugins.py runs
    sweep = "--multirun" in settings
    settings = [
        setting.split(",")[0] if sweep else setting for setting in settings if setting != "--multirun"
    ]
    parse(compose(*settings))


def test_the_first_command_of_the_readme_runs(tmp_path: Path) -> None:
    """All but the installation, which this environment has behind it."""
    (line,) = [
        one for one in (ROOT / "README.md").read_text().splitlines() if one.startswith("pip install -e . &&")
    ]
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "codec").write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from codec.cli import main; main()' \"$@\"\n"
    )
    (tmp_path / "codec").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(line.split("&&", 1)[1], shell=True, check=True, cwd=tmp_path, env=os.environ | path)
    assert (
        soundfile.info(tmp_path / "back.wav").frames == soundfile.info(ROOT / "tests/data/speech.flac").frames
    )
