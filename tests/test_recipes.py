"""Recipes: each composes, builds, has the bitrate it states, and takes real training steps."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from codec import assets
from codec.build import build, make
from codec.quantizers import LOSS_WEIGHTS
from codec.train import receipts_page, recipes
from codec.train.compose import compose
from codec.train.config import RunConfig, parse
from codec.train.export import for_use
from codec.train.objective import quantizer_losses, term_weights
from codec.train.size import tiny

ROOT = Path(__file__).parents[1]
NAMES = recipes.names()
OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted((assets.root() / "conf").glob("*/[!_]*.yaml"))
    if path.parent.name in ("model", "quantizer", "discriminator", "loss", "optim", "data", "logger")
]


def composed(name: str, *overrides: str) -> DictConfig:
    return compose(f"+recipe={name}", *overrides)


@pytest.mark.parametrize("name", NAMES)
def test_recipe_builds_with_the_bitrate_it_states(name: str) -> None:
    config = parse(composed(name))
    codec = build(config.codec)
    assert config.name == name
    assert config.hop == codec.hop
    assert codec.bitrate() / 1000 == pytest.approx(recipes.bitrate(name), rel=0.005)
    narrow = build(tiny(config).codec)
    assert (narrow.hop, narrow.bitrate(), narrow.causal) == (codec.hop, codec.bitrate(), codec.causal)
    assert _numbers(narrow) < _numbers(codec) / 2, "size=tiny makes it smaller"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_recipe_takes_two_steps_at_full_size(name: str, tmp_path: Path) -> None:
    overrides = [
        f"+recipe={name}",
        "trainer=smoke",
        "logger=none",
        "log.clips=0",
        "data.filters=null",
        "data.samples=4800",
        "data.num_workers=0",
        "batch_limit=1",
        "data.valid_clips=1",
        "data.valid_seconds=0.4",
        "train.q_start=0",
        "train.d_start=0",
        f"dir={tmp_path}",
    ]
    # in a process of its own, for some of these take gigabytes that an allocator does not give back
    subprocess.run([sys.executable, str(ROOT / "train.py"), *overrides], check=True, cwd=tmp_path)
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["steps"] == 2
    assert receipt["evaluation"]["mel_distance"] > 0
    assert all(math.isfinite(value) for value in receipt["evaluation"].values())


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.startswith("quantizer=")])
def test_another_quantizer_is_one_override(option: str) -> None:
    config = tiny(parse(composed("dac_44k", option)))
    quantizer = make("quantizer", config.codec["quantizer"], dim=config.model["encoder"]["dim"])
    names = [term for term in config.loss.weights if term not in LOSS_WEIGHTS]
    weights, notes = term_weights(config.loss.weights, names, quantizer)
    assert set(weights) == {*names, *quantizer_losses(quantizer)}
    assert len(notes) == len(set(weights) ^ set(config.loss.weights))


@pytest.mark.parametrize(
    "override", ["table=simvq", "assignment=softmax", "update=gradient", "replace_dead=cvq"]
)
def test_another_choice_is_one_override(override: str) -> None:
    for name in ("default", "hificodec"):
        config = parse(composed(name, f"quantizer.{override}"))
        make("quantizer", config.codec["quantizer"], dim=64)


def test_settings_of_a_recipe_stay_with_its_own_option() -> None:
    assert composed("dac_44k").quantizer.num_codebooks == 9
    assert composed("dac_44k", "quantizer=rvq").quantizer.num_codebooks == 9
    assert (
        composed("dac_44k", "quantizer=product").quantizer
        == composed("default", "quantizer=product").quantizer
    )
    assert composed("dac_44k", "quantizer=product").data.samples == composed("dac_44k").data.samples


@pytest.mark.parametrize("name", NAMES)
def test_recipe_can_be_exported(name: str) -> None:
    config = tiny(parse(composed(name)))
    codec = build(config.codec).eval()
    exported, fixed = for_use(config.codec, codec)
    sound = 0.1 * torch.randn(1, codec.channels, 2 * codec.hop)
    with torch.inference_mode():
        assert torch.equal(fixed.eval().encode(sound), codec.encode(sound))
    assert build(exported).state_dict().keys() == fixed.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_recipe_is_short_and_says_what_it_is(name: str) -> None:
    lines = (recipes.folder() / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 40
    assert lines[0] == "# @package _global_"
    assert 30 < len(recipes.summary(name)) <= 120


def test_page_of_receipts_has_a_row_a_command_and_a_picture_for_each() -> None:
    data = {"samples": 12000, "batch_size": 4, "root": "train.jsonl", "valid_clips": 8, "valid_seconds": 2.0}
    run = {
        "recipe": "encodec",
        "size": "tiny",
        "steps": 400,
        "audio_hours": 0.222,
        "hours": 0.1,
        "kbps": 24.0,
        "parameters": 940_000,
        "seed": 0,
        "curve": [
            {"step": 0, "mel_distance": 4.0, "usage": 0.1, "least_usage": 0.2},
            {"step": 20, "mel_distance": 2.0, "usage": 0.1, "least_usage": 0.2},
            {"step": 400, "mel_distance": 1.0, "usage": 0.2, "least_usage": 0.3},
        ],
        "config": {
            "data": data | {"filters": {"kind": "music"}},
            "model": {"sample_rate": 24000},
            "train": {"steps": 400},
            "optim": {"generator": {"lr": 4e-4}, "discriminator": {"lr": 3e-3}},
            "trainer": {"val_check_interval": 20},
        },
    }
    row = receipts_page.table([run]).splitlines()[-1]
    assert row.startswith("| `encodec` tiny | 24 | 0.94 M | 400 | 4 x 0.5 s |")
    assert row.endswith("| 4.00 at 0, 2.00 at 20, 1.00 at 400 | -75% from 0, -50% from 20 | 30% |")
    command = receipts_page.command(run)
    assert command.startswith("python train.py +recipe=encodec size=tiny seed=0 data.root=train.jsonl ")
    assert "train.steps=400" in command
    assert "data.valid_seconds=2" in command
    assert "'data.filters={kind:music}'" in command
    assert "batch_size" not in command, "what the recipe says already"
    # before size=tiny makes four times as much of it, but at most 0.001
    assert "optim.generator.lr=0.0001 optim.discriminator.lr=0.003" in command
    assert command.endswith("trainer.val_check_interval=20")
    picture = receipts_page.curves([run, run])
    assert picture.count("<polyline") == 2
    assert "encodec tiny: 1.00" in picture
    text = "before <!-- recipes -->\nold\n<!-- end of recipes --> <!-- receipts -->\n<!-- end of receipts --> after"
    new = receipts_page.updated(text, [run])
    assert new.startswith("before ")
    assert new.endswith(" after")
    assert row in new
    assert command in new
    assert "old" not in new


def test_table_of_recipes_is_made_of_the_receipts() -> None:
    text, found = (recipes.folder() / "README.md").read_text(), receipts_page.receipts()
    assert receipts_page.updated(text, found) == text, "run python -m codec.train.receipts"
    assert (recipes.folder() / "curves.svg").read_text() == receipts_page.curves(found)


@pytest.mark.parametrize("receipt", receipts_page.receipts(), ids=receipts_page.label)
def test_command_of_a_receipt_repeats_its_run(receipt: dict[str, Any]) -> None:
    words = shlex.split(receipts_page.command(receipt))
    assert words[:2] == ["python", "train.py"]
    config = parse(composed(receipt["recipe"], *words[3:]))
    again = asdict(tiny(config) if config.size == "tiny" else config)
    # settings that are newer than the receipt were at their defaults
    recorded = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(RunConfig), receipt["config"]))
    for group in ("model", "quantizer", "discriminator", "optim", "train"):
        assert again[group] == recorded[group], group


def test_every_receipt_is_of_a_recipe_and_holds_no_path() -> None:
    for path in (recipes.folder() / "receipts").glob("*.json"):
        receipt: dict[str, Any] = json.loads(path.read_text())
        assert receipt["recipe"] in NAMES
        assert receipt["commit"]
        assert receipt["curve"]
        assert '"/' not in path.read_text()


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_every_group_makes_its_parts(option: str) -> None:
    group = option.partition("=")[0]
    # a decoder conditioned on the number of codebooks needs the quantizer it was made for
    other = ["quantizer=mcrvq"] if option == "model=languagecodec" else []
    config = tiny(parse(compose("discriminator=none", "loss=mel", *other, option)))
    given = {"sample_rate": config.model["sample_rate"], "channels": config.model["channels"]}
    if group in ("model", "quantizer"):
        codec = build(config.codec)
        assert codec.encode(torch.zeros(1, codec.channels, 2 * codec.hop)).shape[-1] == 2
    for spec in config.discriminator.values():
        make("discriminator", spec, **given)
    for spec in config.loss.terms.values():
        make("loss", spec, **given)
    for spec in filter(None, (config.loss.adversarial, config.loss.feature)):
        make("loss", spec)


def _numbers(codec: Any) -> int:
    return sum(p.numel() for half in (codec.encoder, codec.decoder) for p in half.parameters())
