"""The race of training steps: both sides are the same networks, and the command says who wins by how much."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codec.bench.training import race
from codec.bench.training_reference import EncodecReference
from codec.cli import app
from codec.errors import ConfigError
from codec.train.standalone import own_task

pytest.importorskip("encodec")


def count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


@pytest.mark.filterwarnings("ignore")
def test_both_sides_train_the_same_networks() -> None:
    task, audio = own_task("encodec", 1, 0.2)
    theirs = EncodecReference(audio)
    assert task.discriminators is not None
    ours = count(task.codec.encoder), count(task.codec.decoder), count(task.discriminators)
    assert ours == (count(theirs.codec.encoder), count(theirs.codec.decoder), count(theirs.discriminator))
    before = [parameter.detach().clone() for parameter in theirs.codec.decoder.parameters()]
    theirs.step()
    after = theirs.codec.decoder.parameters()
    assert any(not torch.equal(p, b) for p, b in zip(after, before, strict=True))
    task.training_step({"audio": audio}, 0)
    assert task.batches == 1
    assert {"adv", "fm", "mel", "wave", "commit", "disc"} <= task.meter.pull().keys()


def test_the_command_tells_the_ratio() -> None:
    told = CliRunner().invoke(
        app, ["bench", "train", "--batch", "1", "--seconds", "0.2", "--rounds", "1", "--json"]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert len(found["ratios"]) == len(found["ratios_bf16"]) == 1
    assert min(found["theirs"], found["ours"], found["ours_bf16"]) > 1e-3  # seconds, of work that is done
    assert found["seconds"] == 0.2


def test_races_that_cannot_be_run() -> None:
    def ours() -> tuple[Any, torch.Tensor, int]:
        return None, torch.zeros(1, 1, 4800), 24000

    with pytest.raises(ConfigError, match="'mimi' against, only for encodec, hificodec"):
        race("mimi", ours)
    with pytest.raises(ConfigError, match=r"a checkout of github\.com/yangdongchao/AcademiCodec"):
        race("hificodec", ours)
