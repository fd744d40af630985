"""What is installed: a wheel made from the source archive works in a clean environment, away from the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import soundfile
from conftest import SPEECH

from codec import assets
from codec.errors import ConfigError
from codec.native import build

ROOT = Path(__file__).parents[1]
COMPILER = next(filter(None, map(shutil.which, build.COMPILERS)), None)


def run(*command: object, cwd: Path, **env: str) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=clean | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make(kind: str, source: Path, target: Path, **env: str) -> Path:
    """The archive that hatchling makes of `source`, without the network."""
    name = run(
        sys.executable,
        "-c",
        f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))",
        target,
        cwd=source,
        **env,
    )
    return target / name.split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The source archive, unpacked."""
    folder = tmp_path_factory.mktemp("dist")
    with tarfile.open(make("sdist", ROOT, folder)) as archive:
        archive.extractall(folder, filter="data")
    (source,) = (path for path in folder.iterdir() if path.is_dir())
    return source


@pytest.fixture(scope="module")
def wheel(source) -> Path:
    """A wheel, made of the source archive."""
    return make("wheel", source, source.parent)


def files(folder: Path) -> set[str]:
    """Paths of the tracked kinds of files below a folder."""
    kinds = {".yaml", ".cu", ".cpp", ".cuh", ".h", ".md", ".safetensors", ".py", ".html", ".typed"}
    return {str(path.relative_to(ROOT)) for path in folder.rglob("*") if path.suffix in kinds}


def test_the_wheel_holds_everything_that_runs_need(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (text,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    assets = {f"codec/_assets/{name}" for part in ("conf", "recipes", "cuda") for name in files(ROOT / part)}
    assert assets
    assert assets | files(ROOT / "codec") <= names
    assert not [
        name for name in names if name.startswith(("tests", "demos", "cuda/")) or "__pycache__" in name
    ]
    # otherwise the folder would hide NVIDIA's own package of that name
    assert "codec/_assets/cuda/__init__.py" not in names
    assert ("codec/native/kernels.so" in names) == bool(COMPILER)
    platform = sysconfig.get_platform().replace("-", "_") if COMPILER else "any"
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")
    metadata = Parser().parsestr(text)
    assert metadata["License-Expression"] == "MIT"
    assert {"eval", "demo", "dev"} <= set(metadata.get_all("Provides-Extra", []))


def test_without_a_compiler_the_wheel_is_made_unless_the_extension_is_required(source, tmp_path):
    bare = make("wheel", source, tmp_path, PATH="")
    assert bare.name.endswith("-py3-none-any.whl")
    with pytest.raises(AssertionError, match=r"no C\+\+ compiler found"):
        make("wheel", source, tmp_path, PATH="", CODEC_CPU="require")


def test_the_wheel_works_away_from_the_checkout(wheel, tiny_model, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        "-q",
        wheel,
        cwd=tmp_path,
    )
    # the dependencies of this environment stand in for a download; its own codec must not be seen
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = run(python, "-c", "import codec.assets as a; print(a.__file__); print(a.root())", cwd=tmp_path)
    assert where.split() == [str(site / "codec" / "assets.py"), str(site / "codec" / "_assets")]
    hint = run(python, "-c", "import codec.assets; print(codec.assets.install('demo'))", cwd=tmp_path)
    assert shlex.split(hint)[:2] == ["pip", "install"]
    assert {re.split("[<>=]", word)[0] for word in shlex.split(hint)[2:]} == {"gradio", "websockets"}
    codec = tmp_path / "env" / "bin" / "codec"
    assert run(codec, "--version", cwd=tmp_path).startswith("codec ")
    in_use = run(python, "-c", "from codec import native; print(native.describe())", cwd=tmp_path, PATH="")
    assert ("baseline" if COMPILER else "plain torch") in in_use
    run(codec, "encode", SPEECH, "out.tok", "--model", tiny_model, cwd=tmp_path)
    run(codec, "decode", "out.tok", "back.wav", "--model", tiny_model, cwd=tmp_path)
    assert soundfile.info(tmp_path / "back.wav").frames == soundfile.info(SPEECH).frames
    recipes = run(codec, "train", "--help", cwd=tmp_path)
    assert all(path.stem in recipes for path in (ROOT / "recipes").glob("*.yaml"))


def test_the_hint_for_an_extra_is_right_in_a_checkout_and_names_no_package_of_an_index():
    words = shlex.split(assets.install("demo"))
    assert words == ["pip", "install", "-e", f"{ROOT}[demo]"]
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    named = set()
    for path in [
        *ROOT.glob("codec/**/*.py"),
        *ROOT.glob("demos/*.py"),
        *ROOT.glob("docs/*.md"),
        ROOT / "README.md",
    ]:
        text = path.read_text()
        assert "codec[" not in text.replace("`codec[extra]`", ""), path
        named |= set(re.findall(r"assets\.install\(['\"](\w+)", text)) | set(
            re.findall(r"-e [\"']?\.\[(\w+)", text)
        )
    assert named <= extras
    assert {"demo", "semantic"} <= named


def test_a_package_that_is_absent_or_does_not_fit_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(
        ConfigError, match=re.escape(f"no_such_thing is not installed: {assets.install('eval')}")
    ):
        assets.optional("no_such_thing.part", "eval")
    (tmp_path / "for_another_torch.py").write_text("raise OSError('could not load this library\\nat length')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"is installed and cannot be loaded: could not load this library$"):
        assets.optional("for_another_torch", "eval")
