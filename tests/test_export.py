"""A weights file of a training run: the averaged codec and nothing else."""

from __future__ import annotations

import pickle

import pytest
import torch

from codec import files
from codec.build import build
from codec.errors import CheckpointError
from codec.train.export import export


@pytest.fixture
def run(tiny_config, tmp_path):
    """A folder with the checkpoint of a run that averaged its weights, and the averaged codec."""
    codec, average = (build(tiny_config).eval() for _ in range(2))
    state = {f"codec.{name}": value for name, value in codec.state_dict().items()}
    state |= {f"average.module.{name}": value for name, value in average.state_dict().items()}
    state |= {"discriminators.weight": torch.ones(3)}
    about = {
        "config": tiny_config,
        "recipe": "tiny",
        "steps": 7,
        "data": {"root": "/somewhere", "hours": 1.5},
    }
    torch.save({"state_dict": state, "codec": about, "optimizer_states": []}, tmp_path / "last.ckpt")
    return tmp_path, average


def test_the_average_is_exported_without_what_only_training_needs(run):
    folder, average = run
    found = export(folder, folder / "out.safetensors", half=False, metadata={"licence": "MIT"})
    codec = files.load(folder / "out.safetensors")
    audio = 0.1 * torch.randn(1, 1, 6400)
    with torch.inference_mode():
        codes = average.encode(audio)
        assert torch.equal(codec.encode(audio), codes)
        assert torch.equal(codec.decode(codes), average.decode(codes))
    assert (found["recipe"], found["steps"], found["licence"]) == ("tiny", 7, "MIT")
    assert found["data"] == {"hours": 1.5}
    assert len(codec.quantizer.state_dict()) < len(average.quantizer.state_dict())


def test_half_precision_changes_little(run):
    folder, average = run
    export(folder / "last.ckpt", folder / "out.safetensors")
    codes = torch.randint(0, 64, (1, 4, 50))
    with torch.inference_mode():
        restored, exact = files.load(folder / "out.safetensors").decode(codes), average.decode(codes)
    assert (restored - exact).norm() < 1e-2 * exact.norm()


def test_what_is_no_run_is_refused(tmp_path):
    target = tmp_path / "out.safetensors"
    with pytest.raises(CheckpointError, match="neither"):
        export(tmp_path, target)
    with pytest.raises(CheckpointError, match="there is no run"):
        export(tmp_path / "x.ckpt", target)

    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the checkpoint ran code",))

    for content in (pickle.dumps(Bomb()), b"", b"hello"):
        (tmp_path / "last.ckpt").write_bytes(content)
        with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
            export(tmp_path, target)
    torch.save({"model": {}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        export(tmp_path, target)
    assert not target.exists()
