"""Parts by name: short names, parts of other packages where they are allowed, and names of earlier versions."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from safetensors import safe_open
from safetensors.torch import save_file

from codec import assets, build, checkpoint, legacy
from codec.errors import ConfigError
from codec.train.pretrained import fill

PLUGIN = '''
from codec.quantizers import FSQ

class Coarse(FSQ):
    """FSQ of three levels."""

    def __init__(self, dim: int, channels: int = 4) -> None:
        super().__init__(dim, [3] * channels)

class NoQuantizer:
    pass
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of a quantizer in a folder of its own."""
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "__init__.py").write_text("")
    (tmp_path / "stranger" / "parts.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "stranger.parts:Coarse"
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger"]:
        del sys.modules[name]


@pytest.mark.parametrize("allow", [["stranger.parts:Coarse"], ["stranger.parts"], ["stranger"], "stranger"])
def test_a_file_may_name_code_that_its_reader_allows(
    plugin: str, tiny_config: dict[str, Any], tmp_path: Path, allow: Any
) -> None:
    config = tiny_config | {"quantizer": {"name": plugin, "channels": 6}}
    codec = build.build(config, allow=True).eval()
    checkpoint.save(codec, tmp_path / "a.safetensors", config)
    del sys.modules["stranger.parts"]
    loaded = checkpoint.load(tmp_path / "a.safetensors", allow=allow)
    audio = 0.1 * torch.randn(1, 1, 3200)
    with torch.no_grad():
        assert torch.equal(loaded.encode(audio), codec.encode(audio))
    assert loaded.metadata["config"]["quantizer"]["name"] == plugin
    assert fill(build.build(config, allow=True), tmp_path / "a.safetensors", config)


@pytest.mark.parametrize(
    "allow", [[], False, ["strange"], ["stranger.other"], ["stranger.parts:Fine"], ["os"]]
)
def test_a_file_imports_nothing_else(
    plugin: str, tiny_config: dict[str, Any], tmp_path: Path, allow: Any
) -> None:
    config = tiny_config | {"quantizer": {"name": plugin}}
    checkpoint.save(build.build(config, allow=True), tmp_path / "a.safetensors", config)
    del sys.modules["stranger.parts"], sys.modules["stranger"]
    with pytest.raises(ConfigError, match=r"outside this package.*allow=\['stranger\.parts:Coarse'\]"):
        checkpoint.load(tmp_path / "a.safetensors", allow=allow)
    assert "stranger" not in sys.modules


@pytest.mark.parametrize("place", ["encoder", "decoder", "quantizer"])
def test_a_file_that_names_the_shell_runs_nothing(
    tiny_config: dict[str, Any], tiny_model: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = {"name": "os:system", "command": "touch /tmp/pwned"}
    model = tiny_config["model"]
    config = (
        tiny_config | {"quantizer": evil}
        if place == "quantizer"
        else tiny_config | {"model": model | {place: evil}}
    )
    checkpoint.save(checkpoint.load(tiny_model), tmp_path / "evil.safetensors", config)
    monkeypatch.setattr(build, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    monkeypatch.setitem(build.PARTS, "encoder", {})
    with pytest.raises(ConfigError):
        checkpoint.load(tmp_path / "evil.safetensors")
    with pytest.raises(ConfigError, match="'os:system' is code from outside this package"):
        build.resolve(place, "os:system")


def test_what_is_allowed_must_be_there_and_be_such_a_part(plugin: str) -> None:
    for name, words in (
        ("stranger.parts:NoQuantizer", r"is no subclass of codec\.quantizers\.base:Quantizer"),
        ("stranger.parts:Nothing", "cannot be imported.*Nothing"),
        ("stranger.gone:Coarse", r"cannot be imported: No module named 'stranger\.gone'"),
        (".parts:Coarse", "cannot be imported"),
        ("os:system", "is no subclass"),
    ):
        with pytest.raises(ConfigError, match=words):
            build.resolve("quantizer", name, True)
    with pytest.raises(ConfigError, match=r"is no subclass of codec\.discriminators\.base:Discriminator"):
        build.resolve("discriminator", plugin, True)


def test_an_installed_package_gives_short_names(plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("quantizer.coarse", plugin, build.ENTRY_POINTS)]
    monkeypatch.setattr(build, "entry_points", lambda group: EntryPoints(points).select(group=group))
    assert build.make("quantizer", {"name": "coarse"}, dim=8).codebook_sizes == (81,)
    with pytest.raises(ConfigError, match=r"no loss named 'coarse'"):
        build.resolve("loss", "coarse")
    with pytest.raises(ConfigError, match=r"no quantizer named 'coarze' \(did you mean 'coarse'\?\)"):
        build.resolve("quantizer", "coarze")


def test_a_class_of_this_package_needs_no_short_name() -> None:
    assert build.resolve("quantizer", "codec.quantizers.fsq:FSQ") is build.resolve("quantizer", "fsq")


def test_weights_with_the_names_of_earlier_versions_load(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    choices = {"table": {"name": "factorized", "width": 4}, "update": "gradient", "replace_dead": "threshold"}
    quantizer = {
        "name": "split_rvq",
        "num_codebooks": 3,
        "codebook_size": 32,
        "semantic_codebooks": 1,
        **choices,
    }
    path = make_model(tmp_path / "now.safetensors", tiny_config | {"quantizer": quantizer})
    with safe_open(path, framework="pt") as file:
        now = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = file.metadata()
    settings, names = (
        {new: old for old, new in table.items()}
        for table in (legacy.QUANTIZER_SETTINGS, legacy.QUANTIZER_TENSORS | {"inward": "", "outward": ""})
    )
    then = {".".join(names.get(part, part) for part in name.split(".")): value for name, value in now.items()}
    assert "quantizer.semantic_rvq.books.0.table.down.weight" in then
    assert "quantizer.acoustic_rvq.books.1.started" in then
    config = checkpoint._canonical(
        tiny_config | {"quantizer": {settings.get(key, key): value for key, value in quantizer.items()}}
    )
    assert '"revive":"threshold"' in config
    fingerprint = checkpoint._fingerprint(config, then)
    save_file(then, tmp_path / "then.safetensors", text | {"config": config, "fingerprint": fingerprint})
    old = checkpoint.load(tmp_path / "then.safetensors")
    metadata = old.metadata
    assert metadata["fingerprint"] == fingerprint != text["fingerprint"]
    assert metadata["config"]["quantizer"] == quantizer
    new = checkpoint.load(path)
    audio = 0.1 * torch.randn(1, 1, 6400)
    with torch.no_grad():
        assert torch.equal(old.encode(audio), new.encode(audio))


def test_names_of_earlier_versions_are_free_for_others(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantizer from outside calls its settings and layers what it likes."""
    (tmp_path / "narrow.py").write_text(
        "from torch import nn\n"
        "from codec.quantizers.vector import RVQ\n"
        "class Narrow(RVQ):\n"
        "    def __init__(self, dim, start):\n"
        "        super().__init__(dim, num_codebooks=2, codebook_size=start)\n"
        "        self.down = nn.Linear(dim, 2)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = tiny_config | {"quantizer": {"name": "narrow:Narrow", "start": 16}}
    made = build.build(config, allow=["narrow"])
    checkpoint.save(made, tmp_path / "narrow.safetensors", config)
    loaded = checkpoint.load(tmp_path / "narrow.safetensors", allow=["narrow"])
    assert torch.equal(
        loaded.state_dict()["quantizer.down.weight"], made.state_dict()["quantizer.down.weight"]
    )


def test_the_default_model_keeps_its_fingerprint() -> None:
    path = assets.weights() / "default.safetensors"
    with safe_open(path, framework="pt") as file:
        assert any(".books." in name for name in file.keys()), "it was written under earlier names"  # noqa: SIM118
        stored = file.metadata()["fingerprint"]
    assert (
        checkpoint.load(path).metadata["fingerprint"]
        == stored
        == checkpoint.read_metadata(path)["fingerprint"]
    )
