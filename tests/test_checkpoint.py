"""Weights files: what goes in comes out, and nothing but a whole and fitting file is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from codec import checkpoint
from codec.build import PARTS, build, make, resolve
from codec.errors import CheckpointError, ConfigError


def change(source: Path, target: Path, tensors: Any = None, **text: str) -> Path:
    """A copy of a weights file with its tensors passed through `tensors` and entries of its description replaced."""
    with safe_open(source, framework="pt") as file:
        content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    save_file(tensors(content) if tensors else content, target, metadata | text)
    return target


def test_a_saved_codec_comes_back_exactly(tiny_config, tmp_path):
    codec = build(tiny_config)
    fingerprint = checkpoint.save(codec, tmp_path / "a.safetensors", tiny_config, {"recipe": "x", "steps": 3})
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    metadata = loaded.metadata
    assert not loaded.training
    assert metadata["fingerprint"] == fingerprint
    assert metadata["config"] == tiny_config
    assert (metadata["recipe"], metadata["steps"]) == ("x", 3)
    for name, value in codec.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_half_storage_computes_in_32_bits_and_keeps_what_16_cannot_hold(tiny_config, tmp_path):
    codec = build(tiny_config)
    codec.register_buffer("count", torch.tensor(1e6))
    tensors = {name: checkpoint._stored(value, True) for name, value in codec.state_dict().items()}
    assert tensors["count"].dtype == torch.float32
    del codec.count
    checkpoint.save(codec, tmp_path / "half.safetensors", tiny_config, half=True)
    checkpoint.save(codec, tmp_path / "full.safetensors", tiny_config)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (
        tmp_path / "full.safetensors"
    ).stat().st_size
    loaded = checkpoint.load(tmp_path / "half.safetensors")
    for name, value in codec.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_fingerprint_names_weights_and_configuration(tiny_config, tiny_model, tmp_path):
    same = make_model(tmp_path / "same.safetensors", tiny_config)
    other = make_model(tmp_path / "other.safetensors", tiny_config, seed=1)
    half = make_model(tmp_path / "half.safetensors", tiny_config, half=True)
    prints = [checkpoint.read_metadata(path)["fingerprint"] for path in (tiny_model, same, other, half)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert all(len(bytes.fromhex(text)) == 8 for text in prints)


def test_weight_norm_is_folded_and_the_original_kept():
    layer = nn.Sequential(weight_norm(nn.Conv1d(3, 4, 5)))
    x = torch.randn(1, 3, 20)
    expected = layer(x)
    plain = nn.Sequential(nn.Conv1d(3, 4, 5))
    folded = checkpoint.fold(layer)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(folded(x), expected)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "decoder.norm.weight"}, "misses decoder.norm.weight"),
        (lambda t: t | {"decoder.more": torch.ones(2)}, "unknown decoder.more"),
        (lambda t: t | {"decoder.norm.weight": torch.ones(3)}, "wrongly shaped decoder.norm.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tiny_model, tmp_path, spoil, words):
    path = change(tiny_model, tmp_path / "bad.safetensors", spoil)
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = file.metadata()
    honest = checkpoint._fingerprint(text["config"], stored)
    path = change(path, tmp_path / "bad2.safetensors", fingerprint=honest)
    with pytest.raises(CheckpointError, match=words):
        checkpoint.load(path)


def test_a_changed_weight_is_noticed(tiny_model, tmp_path):
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["decoder.norm.weight"][0] += 1
        return tensors

    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(change(tiny_model, tmp_path / "bad.safetensors", spoil))


def test_only_whole_safetensors_files_of_codecs_are_loaded(tiny_model, tmp_path):
    path = tmp_path / "x.safetensors"

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    for content, words in [
        (pickle.dumps(Bomb()), "pickle"),
        (b"PK\x03\x04 and so on", "pickle"),
        (b"", "not a whole safetensors file"),
        (b"RIFF....WAVE", "not a whole safetensors file"),
        (tiny_model.read_bytes()[:-100], "not a whole safetensors file"),
    ]:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(path)
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="pickle"):
        checkpoint.load(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="holds no codec"):
        checkpoint.load(path)
    for text, words in [({"format_version": "99"}, "update"), ({"config": "{"}, "damaged description")]:
        with pytest.raises(CheckpointError, match=words):
            checkpoint.load(change(tiny_model, path, **text))
    with pytest.raises(CheckpointError, match="no weights file"):
        checkpoint.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="folder"):
        checkpoint.load(tmp_path)


def test_a_configuration_of_unknown_parts_is_refused(tiny_model, tmp_path):
    config = checkpoint.read_metadata(tiny_model)["config"]
    config["quantizer"]["name"] = "os.system"
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    with safe_open(tiny_model, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path = change(
        tiny_model, tmp_path / "x.safetensors", config=text, fingerprint=checkpoint._fingerprint(text, stored)
    )
    with pytest.raises(ConfigError, match=r"no quantizer named 'os\.system'"):
        checkpoint.load(path)


def test_saving_into_no_folder_leaves_nothing(tiny_config, tmp_path):
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(build(tiny_config), tmp_path / "no" / "a.safetensors", tiny_config)
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.save(build(tiny_config), tmp_path / "folder", tiny_config)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            {"quantizer": {"name": "rvg"}},
            r"no quantizer named 'rvg' \(did you mean 'rvq'\?\); there are .*grvq",
        ),
        (
            {"quantizer": {"name": "rvq", "books": 3}},
            "the quantizer 'rvq' has no setting 'books'; it has dim, num_codebooks",
        ),
        ({"quantizer": {"name": "rvq", "dim": 3}}, "encoder's dim is 16 and the quantizer's is 3"),
        ({"quantizer": {}}, "no quantizer named None"),
        ({"quantizer": None}, "no section 'quantizer'"),
    ],
)
def test_a_mistake_in_a_configuration_is_named(tiny_config, spoil, words):
    with pytest.raises(ConfigError, match=words):
        build(tiny_config | spoil)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"sample_rate": 0}, "sample_rate must be a positive whole number"),
        ({"sample_rate": None}, "sample_rate"),
        ({"hop": 3}, "the model has no setting 'hop'"),
        ({"encoder": {"name": "rvq"}}, "no encoder named 'rvq'"),
        ({"encoder": {"name": "fourier_encoder", "stages": []}}, "needs the setting dim"),
    ],
)
def test_a_mistake_in_a_model_is_named(tiny_config, spoil, words):
    with pytest.raises(ConfigError, match=words):
        build(tiny_config | {"model": tiny_config["model"] | spoil})


def test_every_short_name_stands_for_a_class():
    for kind, names in PARTS.items():
        for name in names:
            assert isinstance(resolve(kind, name), type)


def test_what_is_known_from_elsewhere_is_used_where_it_is_taken():
    assert make("quantizer", {"name": "vq"}, dim=8, unknown_elsewhere=1).dim == 8


def test_a_model_loaded_in_inference_mode_keeps_what_it_makes_of_its_weights(tiny_model):
    """Weights that are inference tensors tell nobody when they change: every call would pack them anew."""
    with torch.inference_mode():
        codec = checkpoint.load(tiny_model)
    assert not any(tensor.is_inference() for tensor in codec.state_dict().values())


def test_a_header_of_any_length_can_be_read(tiny_config, tmp_path):
    """A safetensors file begins with the length of its header: one in 32 of them looks like the start of a pickle."""
    codec, path, starts = build(tiny_config), tmp_path / "a.safetensors", set()
    for words in range(32):
        checkpoint.save(codec, path, tiny_config, {"note": "x" * 8 * words})
        starts.add(path.read_bytes()[0])
        checkpoint.load(path)
    assert 0x80 in starts
