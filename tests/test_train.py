"""Training: two networks in one step, exact resuming, signals, bad batches, bad configurations."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from codec.build import build
from codec.errors import CheckpointError, CodecError, ConfigError
from codec.metrics.tokens import CodebookStatistics
from codec.quantizers import Codebook
from codec.train import recipes
from codec.train.app import main
from codec.train.collapse import CollapseWatch
from codec.train.compose import compose
from codec.train.config import ScheduleConfig, codebook_choices, parse
from codec.train.export import export
from codec.train.log import RunLog
from codec.train.meter import Meter
from codec.train.optim import Average, rate_factor
from codec.train.run import train
from codec.train.standalone import own_task
from codec.train.task import CodecTask, Diverged

ROOT = Path(__file__).parents[1]
SMALL = [
    "model=fourier",
    "quantizer=rvq",
    "discriminator=small_stft",
    "loss=speech",
    "optim=adamw",
    "logger=none",
    "size=tiny",
    "quantizer.num_codebooks=3",
    "quantizer.codebook_size=32",
    "data.samples=6400",
    "batch_limit=2",
    "data.num_workers=0",
    "data.valid_clips=2",
    "data.valid_seconds=0.5",
    "log.every=2",
    "trainer.val_check_interval=4",
    "checkpoint.minutes=null",
    "train.steps=4",
]


Config = Callable[..., DictConfig]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Composes a small run in a folder of the test."""

    def make(*overrides: str, name: str = "run") -> DictConfig:
        return compose(*SMALL, f"dir={tmp_path / name}", *overrides)

    return make


def test_a_run_leaves_a_log_a_receipt_and_metrics(config: Config, tmp_path: Path) -> None:
    metrics, objects = train(config("train.d_start=2", "logger=tensorboard", "log.clips=1"))
    assert {"mel_distance", "mel", "usage"} <= metrics.keys()
    assert objects["trainer"].global_step == 4
    rows = RunLog(tmp_path / "run").rows()
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("valid", 0),
        ("train", 2),
        ("train", 4),
        ("valid", 4),
    ]
    assert "disc" not in rows[1], "the discriminators start at batch 2"
    assert "disc" in rows[2]
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["steps"] == 4
    assert receipt["kbps"] == objects["codec"].bitrate() / 1000
    assert receipt["data"]["hash"]
    assert receipt["evaluation"] == metrics
    assert str(tmp_path) not in json.dumps(receipt)
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


def test_the_end_of_a_run_is_validated_and_says_what_comes_next(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, _ = train(config("train.steps=3", "checkpoint.steps=100"))
    rows = [row for row in RunLog(tmp_path / "run").rows() if row["kind"] == "valid"]
    assert [row["step"] for row in rows] == [0, 3]
    assert metrics["mel_distance"] == pytest.approx(rows[-1]["mel_distance"], abs=1e-6)
    assert (tmp_path / "run" / "best.ckpt").exists()
    folder = tmp_path / "run"
    told = capsys.readouterr().err
    assert f"finished 3 steps in {folder}; next: codec export {folder} custom.safetensors" in told


def test_a_run_starts_from_the_weights_of_another(config: Config, tmp_path: Path) -> None:
    train(config("checkpoint.steps=100", name="first"))
    weights = tmp_path / "first.safetensors"
    first = export(tmp_path / "first", weights, half=False)
    _, objects = train(config(f"weights={weights}", "checkpoint.steps=100", "seed=1", name="second"))
    untrained, *_, trained = [row for row in RunLog(tmp_path / "second").rows() if row["kind"] == "valid"]
    assert untrained["mel_distance"] == pytest.approx(first["metrics"]["mel_distance"], rel=1e-3)
    assert trained["mel_distance"] != untrained["mel_distance"]
    about = torch.load(tmp_path / "second" / "last.ckpt", weights_only=True)["codec"]
    assert about["weights"] == first["fingerprint"]
    assert json.loads((tmp_path / "second" / "receipt.json").read_text())["config"]["weights"] == weights.name
    codebook = next(part for part in objects["codec"].quantizer.modules() if isinstance(part, Codebook))
    assert codebook.steps > 4, "running means do not start over"
    weights.unlink()  # what goes on from a checkpoint needs them no more
    train(config(f"weights={weights}", "checkpoint.steps=100", "resume=true", "train.steps=5", name="second"))
    about = torch.load(tmp_path / "second" / "last.ckpt", weights_only=True)["codec"]
    assert about["weights"] == first["fingerprint"]


def test_weights_of_another_codec_are_refused(config: Config, tmp_path: Path) -> None:
    train(config("checkpoint.steps=100", name="first"))
    weights = tmp_path / "first.safetensors"
    export(tmp_path / "first", weights)
    for override, sentence in {
        "quantizer.num_codebooks=4": r"another codec than this one: they differ in the shape of quantizer\.",
        "+model.encoder.compression=0.4": r"they differ in model\.encoder\.compression \(0\.5 there, 0\.4 here\)",
        "train.q_start=2": "with weights it must be 0",
    }.items():
        with pytest.raises(CodecError, match=sentence):
            train(config(f"weights={weights}", override, name="second"))
    with pytest.raises(CheckpointError, match="there is no model 'nowhere'"):
        train(config("weights=nowhere"))


def _parameters(task: CodecTask) -> dict[str, list[Tensor]]:
    """Copies of the parameters of both networks."""
    assert task.discriminators is not None
    networks = {"codec": task.codec, "discriminators": task.discriminators}
    return {
        name: [parameter.detach().clone() for parameter in network.parameters()]
        for name, network in networks.items()
    }


def _moved(config: Config, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> list[tuple[bool, bool]]:
    """Whether codec and discriminators changed in each batch of a run."""
    step, moved = CodecTask.training_step, []

    def watched(self: CodecTask, batch: Any, batch_idx: int) -> None:
        before = _parameters(self)
        step(self, batch, batch_idx)
        after = _parameters(self)
        moved.append(
            (
                not _equal(before["codec"], after["codec"]),
                not _equal(*(one["discriminators"] for one in (before, after))),
            )
        )

    monkeypatch.setattr(CodecTask, "training_step", watched)
    train(config(*overrides))
    return moved


def test_discriminators_train_on_every_nth_batch(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = _moved(config, monkeypatch, "train.steps=4", "train.d_every=2")
    assert moved == [(True, True), (True, False)] * 2


@pytest.mark.parametrize("recipe", ["soundstream", "encodec"])
@pytest.mark.filterwarnings("ignore")
def test_each_network_gets_the_gradient_of_one_plain_backward_pass(recipe: str) -> None:
    task, audio = own_task(recipe, 2, 0.1)
    task.train_config.d_start = 0
    task.codec(audio)
    assert task.discriminators is not None
    for optimizer in task._optimizers():
        optimizer.step = lambda: None  # type: ignore[method-assign]
        optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]
    state = copy.deepcopy(task.state_dict())
    task.training_step({"audio": audio}, 0)
    ours = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.load_state_dict(state)
    task.zero_grad()

    task.batches = 0
    task._seed_batch()
    output = task.codec(audio, num_codebooks=task._draw_codebooks())
    real, fake = task.discriminators(audio), task.discriminators(output.audio)
    assert task.adversarial is not None
    assert task.feature is not None
    terms = task.terms(output.audio, audio) | task.adversarial.generator_loss(fake)  # type: ignore[operator]
    terms |= task.feature(real, fake)
    if task.balancer is None:
        loss = sum(task.weights[name] * value for name, value in (terms | output.losses).items())
    else:
        loss = task.balancer(terms, output.audio)
        loss = loss + sum(task.weights[name] * value for name, value in output.losses.items())
    loss.backward()
    for name, parameter in task.codec.named_parameters(prefix="codec"):
        if parameter.grad is not None:
            error = (ours[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-6)
            assert error < 1e-3, name

    # and the discriminators what their own loss does, with nothing of the generator's
    task.load_state_dict(state)
    task.zero_grad()
    real, fake = task.discriminators.pair(audio, output.audio.detach())
    task.adversarial.discriminator_loss(real, fake).backward()  # type: ignore[operator]
    for name, parameter in task.discriminators.named_parameters(prefix="discriminators"):
        assert parameter.grad is not None
        error = (ours[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-6)
        assert error < 1e-3, name


@pytest.mark.parametrize("part", ["discriminators", "codec"])
def test_a_batch_without_a_finite_gradient_changes_neither_network(
    config: Config, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    initialise = CodecTask.initialise

    def broken(self: CodecTask) -> None:
        """The second gradient that reaches one parameter of the network is infinite."""
        initialise(self)
        count = iter(range(100))
        network: Any = getattr(self, part)
        next(network.parameters()).register_hook(lambda grad: grad * (torch.inf if next(count) == 1 else 1.0))

    monkeypatch.setattr(CodecTask, "initialise", broken)
    assert _moved(config, monkeypatch, "train.steps=2") == [(True, True), (False, False), (True, True)]


def test_the_first_validation_is_no_result(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["train.steps=3", "checkpoint.steps=2"]
    _stop_after(2, monkeypatch)
    for _ in range(2):  # a run that left a log but no checkpoint begins anew
        metrics, _ = train(config(*overrides))
        rows = RunLog(tmp_path / "run").rows()
        assert [(row["kind"], row["step"], row["seconds"] == 0) for row in rows] == [
            ("valid", 0, True),
            ("train", 2, False),
        ]
        assert metrics == {}
        assert not (tmp_path / "run" / "best.ckpt").exists()
        (tmp_path / "run" / "last.ckpt").unlink()


RESUME = [
    "optim.schedule={name: exponential, every: epoch, gamma: 0.9, warmup: 2, floor: 0.0}",
    "data.batches_per_epoch=3",
    "train.codebooks=[1,3]",
    "train.q_start=4",
    "train.steps=8",
    "data.num_workers=1",
]


def test_kill_and_resume_equals_an_uninterrupted_run(config: Config, tmp_path: Path) -> None:
    train(config(*RESUME, "checkpoint.steps=100", name="whole"))
    whole = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)

    cut = tmp_path / "cut"
    overrides = [*SMALL, *RESUME, f"dir={cut}", "checkpoint.steps=3"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *overrides, "+trainer.max_steps=7"],
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    _wait_for(cut / "last.ckpt", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert torch.load(cut / "last.ckpt", weights_only=True)["batches"] in (3, 6, 7)
    train(config(*RESUME, "checkpoint.steps=100", "resume=true", name="cut"))
    resumed = torch.load(cut / "last.ckpt", weights_only=True)
    assert resumed["batches"] == whole["batches"] == 8
    for key in ("state_dict", "optimizer_states", "codec", "global_step"):
        assert _equal(resumed[key], whole[key]), key
    batches = [row["batch"] for row in RunLog(cut).rows() if row["kind"] == "train"]
    assert batches == [2, 4, 6, 8], "rows that the killed run wrote after its checkpoint are dropped"


def test_latents_pass_as_they_are_until_the_books_start(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = CodecTask.training_step, []

    def watched(self: CodecTask, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        state = self.codec.quantizer.state_dict()
        started = [bool(value) for name, value in state.items() if name.endswith("initialised")]
        seen.append((all(started), "commit" in self.meter.pull()))

    monkeypatch.setattr(CodecTask, "training_step", watched)
    _, objects = train(config("train.q_start=2", "log.every=100"))
    assert seen == [(False, False), (False, False), (True, True), (True, True)]
    codebooks = objects["codec"].quantizer.state_dict()
    averaged = objects["task"].evaluated_codec.quantizer.state_dict()
    assert torch.equal(averaged["codebook_list.2.initialised"], codebooks["codebook_list.2.initialised"])


def test_signal_saves_and_ends_cleanly(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    _stop_after(2, monkeypatch)
    _, objects = train(config("checkpoint.minutes=60"))
    assert objects["task"].batches == 2
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["batches"] == 2
    assert (tmp_path / "run" / "receipt.json").exists()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_bad_batch_is_skipped_and_changes_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots: list[dict[str, Tensor]] = []
    terms = CodecTask.terms

    def poisoned(self: CodecTask, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        found = terms(self, estimate, target)
        if self.training and self.batches in (1, 2):
            snapshots.append({k: v.clone() for k, v in self.codec.named_parameters() if "quantizer" not in k})
            found = {name: value * float("nan") for name, value in found.items()}
        elif self.training and self.batches == 3:
            snapshots.append({k: v.clone() for k, v in self.codec.named_parameters() if "quantizer" not in k})
        return found

    monkeypatch.setattr(CodecTask, "terms", poisoned)
    _, objects = train(config("train.steps=3"))
    assert objects["task"].batches == 5
    assert objects["trainer"].global_step == 3
    assert len(snapshots) == 3
    assert _equal(snapshots[0], snapshots[1])
    assert _equal(snapshots[0], snapshots[2])
    assert all(value.isfinite().all() for value in objects["task"].state_dict().values())


def test_bad_batches_in_a_row_stop_the_run_and_name_their_files(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: CodecTask, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {name: estimate.sum() * float("inf") for name in self.losses.names}

    monkeypatch.setattr(CodecTask, "terms", poisoned)
    with pytest.raises(Diverged, match=r"3 batches in a row .*\.flac"):
        train(config("train.patience=3"))


def test_spoiled_books_are_mended(config: Config) -> None:
    _, objects = train(config("train.steps=1"))
    task: CodecTask = objects["task"]
    task.keep_codebooks()
    good = {name: value.clone() for name, value in task.codec.quantizer.state_dict().items()}
    for value in task.codec.quantizer.state_dict().values():
        if value.is_floating_point():
            value.fill_(float("nan"))
    task._restore_codebooks()
    assert _equal(task.codec.quantizer.state_dict(), good)


def test_two_processes_stay_equal(config: Config, tmp_path: Path) -> None:
    """The command line starts the second process itself; every rank writes down what it ends with."""
    program = tmp_path / "ranks.py"
    program.write_text(
        "import os, sys, torch\n"
        "from codec.train.task import CodecTask\n"
        "def end(self):\n"
        f"    torch.save(self.state_dict(), r'{tmp_path}/rank' + str(self.global_rank) + '.pt')\n"
        "CodecTask.on_train_end = end\n"
        "from codec.train.app import main\n"
        "sys.exit(main())\n"
    )
    overrides = [
        *SMALL,
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.precision=32-true",
    ]
    overrides += ["trainer.val_check_interval=4", f"dir={tmp_path / 'ddp'}", "checkpoint.steps=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program), *overrides],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert _equal(first, second)
    assert torch.load(tmp_path / "ddp" / "last.ckpt", weights_only=True)["batches"] == 4


def test_sweep_gives_every_run_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(["--multirun", *SMALL, "train.steps=1", "seed=1,2", "hydra.sweep.dir=sweep"])
    assert code == 0
    receipts = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("sweep/*/receipt.json"))]
    assert [receipt["seed"] for receipt in receipts] == [1, 2]
    assert not list(tmp_path.rglob("*.log")), "Hydra opens a log file unless it is told not to"


def test_refuses_to_write_over_a_run(config: Config, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"")
    with pytest.raises(ConfigError, match="resume=true"):
        train(config())
    for mistake in ("data.root=/nowhere", "weights=nowhere"):
        with pytest.raises(CodecError, match="nowhere"):
            train(config(mistake))


MISTAKES = {
    "+loss.weights.loudness=1": "names 'loudness', but there is no such loss",
    "~loss.weights.mel": "no weight for 'mel'",
    "+loss.terms.x={name: lsgan}": "'x' compares no decoded audio",
    "hop=300": "multiply to 320, but the hop is 300",
    "+model.decoder.strides=[2,3]": "no setting 'strides'",
    "model.encoder.frame=80": "hop is 160 and the decoder's is 320",
    "train.bandwidths=[2]": "no number of codebooks gives 2 kbps; there are 0.25, 0.5, 0.75 kbps",
    "train.codebooks=[4]": "asks for 4 codebooks",
    "quantizer.name=rvqq": "did you mean 'rvq'",
    "data.root=/nowhere/at/all": "/nowhere/at/all",
    "trainer.precision=16-mixed": "32-true or bf16-mixed",
    "train.steps=soon": "train.steps",
    "+trian.steps=3": "no setting 'trian'",
    "optim.schedule.name=linear": "'linear'",
    "optim.generator._target_=torch.optim.Adagraad": "Adagraad",
    "discriminator=none": "there is no such loss",
    "+trainer.max_step=3": "the trainer or its logger cannot be made",
    "loss.adversarial=null": "loss.adversarial",
    "data={samples: 100000000, batch_size: 2}": "shorter than",
    "+data.rot=/x": "there is no setting 'data.rot'; did you mean 'data.root'?",
    "data.batch_size=0": "data.batch_size is 0, not a positive number",
    "data.batch_size=abc": "data.batch_size is 'abc'",
    "optim.generator.lr=abc": "optim.generator.lr is 'abc'",
}


@pytest.mark.parametrize(("override", "sentence"), MISTAKES.items(), ids=MISTAKES)
def test_mistakes_are_one_sentence_before_any_step(
    override: str, sentence: str, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(CodecError) as error:
        train(config(override, "size=full"))
    assert sentence in str(error.value)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_checkpoint_of_other_networks_is_refused(config: Config, tmp_path: Path) -> None:
    train(config("train.steps=1", "checkpoint.steps=1"))
    with pytest.raises(CheckpointError, match=r"another configuration than this run's: \d+ tensors differ"):
        train(config("train.steps=2", "resume=true", "quantizer.codebook_size=16"))


def test_the_screen_and_the_third_batch_say_what_to_expect(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config("train.steps=40", "+trainer.max_steps=4", "train.d_start=3", "quantizer.num_codebooks=2"))
    told = capsys.readouterr().err
    assert "2 codebooks of 32, 0.5 kbps (first codebooks alone: 0.25)" in told
    assert "multiply-adds" in told
    # four steps are too few to foretell anything
    assert "expected:" not in told
    train(config("train.steps=40", "+trainer.limit_train_batches=4", "train.d_start=30", name="long"))
    told = capsys.readouterr().err
    assert re.search(
        r"expected: \d+ (s|min) for 37 steps of [\d.]+ s, without validation; longer .* from 30", told
    )


def test_bandwidths_become_books(config: Config) -> None:
    parsed = parse(config("train.bandwidths=[1.5,0.75]"))
    assert codebook_choices(parsed, {1: 750.0, 2: 1500.0}) == [2, 1]


def test_help_and_unknown_recipe_list_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out and recipes.summary(name) in out for name in recipes.names())
    assert main(["+recipe=hificode"]) == 2
    err = capsys.readouterr().err
    assert "no recipe 'hificode'" in err
    assert recipes.summary("hificodec") in err


def test_bad_override_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["+recipe=encodec", "train.stepz=3"]) == 2
    assert main(["trainer=tpu"]) == 2
    assert main(["+recipe=default", "data.root=/nowhere"]) == 1
    err = capsys.readouterr().err
    assert "there is no setting 'train.stepz'; did you mean 'train.steps'?" in err
    assert "Could not find 'trainer/tpu' Available options in 'trainer': cpu ddp gpu smoke\n" in err
    assert "/nowhere" in err
    assert "Traceback" not in err


def test_rates_warm_up_and_decay() -> None:
    def at(schedule: ScheduleConfig, step: int, epoch: int = 0) -> float:
        return rate_factor(schedule, step, epoch, steps=100, steps_per_epoch=10)

    warm = ScheduleConfig(warmup=4)
    assert [at(warm, step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    cosine = ScheduleConfig("cosine", warmup=20, floor=0.1)
    assert at(cosine, 20) == 1.0
    assert at(cosine, 60) == pytest.approx(0.5)
    assert at(cosine, 100) == 0.1
    assert at(ScheduleConfig("cosine", every="epoch"), 99, 5) == pytest.approx(0.5)
    assert at(ScheduleConfig("exponential", every="epoch", gamma=0.5), 35, 3) == 0.125
    assert at(ScheduleConfig("exponential", gamma=0.5), 2, 0) == 0.25
    trapezoid = ScheduleConfig("trapezoid", warmup=4, decay=20, floor=0.1)
    assert [at(trapezoid, step) for step in (1, 50, 80, 90, 99)] == pytest.approx([0.4, 1.0, 1.0, 0.5, 0.1])


def test_average_follows_weights_and_copies_counters() -> None:
    module = torch.nn.BatchNorm1d(2)
    average = Average(module, 0.5)
    average.train()
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.num_batches_tracked.fill_(7)
    average.update(module, 1000)
    assert average.module.weight.tolist() == [2.0, 2.0]
    assert average.module.num_batches_tracked.item() == 7
    assert not average.module.training
    average.update(module, 0)
    assert average.module.weight.tolist() == pytest.approx([2.9, 2.9]), "the first updates forget the start"


def test_meter_counts_each_book() -> None:
    meter = Meter((4, 2))
    meter.count(torch.tensor([[[0, 1, 2, 3], [1, 1, 1, 1]], [[0, 0, 1, 1], [-1, -1, -1, -1]]]))
    meter.count(torch.tensor([[[0, 0]]]))
    first, second = meter.pull_codebooks()
    assert (first.tokens, first.used, second.tokens, second.used) == (10, 4, 4, 1)
    assert second.perplexity == pytest.approx(1.0)
    assert first.perplexity == pytest.approx(3.19, abs=0.05)
    assert meter.pull_codebooks() == []


def test_collapsed_codebook_is_named_with_its_likely_cause() -> None:
    watch = CollapseWatch(0.05)
    healthy, dead = CodebookStatistics(1024, 5000, 900, 9.5), CodebookStatistics(1024, 5000, 1, 0.0)
    (told,) = watch.warnings(1000, [healthy, dead])
    assert "collapsed codebook 1 (1 of 1024 codes in 5000 tokens, perplexity 1.0)" in told
    assert "the codebooks before it" in told
    assert watch.warnings(1050, [healthy, dead]) == [], "told once, not with every row"
    (told,) = watch.warnings(1100, [dead, healthy])
    assert "nearly constant" in told


def _stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process SIGTERM when a run has trained on so many batches."""
    step = CodecTask.training_step

    def signalled(self: CodecTask, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if self.batches == batches:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(CodecTask, "training_step", signalled)


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None or path.exists(), "the run ended before it saved"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_validation_hears_the_weights_that_training_moved(tiny_config: dict[str, Any]) -> None:
    """Fused optimisers do not tell tensors that they change: packed weights would stay the first validation's."""
    torch.manual_seed(0)
    config = tiny_config | {
        "quantizer": {"name": "rvq", "num_codebooks": 2, "codebook_size": 64, "table": "simvq"}
    }
    codec, audio = build(config), 0.1 * torch.randn(2, 1, 6400)
    optimiser = torch.optim.AdamW(codec.parameters(), lr=0.01, fused=True)

    def validate() -> Tensor:
        with torch.no_grad():
            sound: Tensor = codec.eval()(audio).audio
        codec.train()
        return sound

    first = validate()
    codec(audio).audio.square().mean().backward()
    optimiser.step()
    second = validate()
    fresh = build(config)
    fresh.load_state_dict(codec.state_dict())
    with torch.no_grad():
        expected = fresh.eval()(audio).audio
    assert not torch.allclose(first, second)
    assert torch.equal(second, expected)


def test_flags_stand_anywhere_and_a_value_that_hydra_cannot_read_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["+recipe=default", "--cfg", "job", "data.batch_size=3"]) == 0
    assert "batch_size: 3" in capsys.readouterr().out
    assert main(["+recipe=default", "data.root=a=b"]) == 2
    assert "data.root" in (told := capsys.readouterr().err)
    assert "quote it: 'data.root=\"a=b\"'" in told
