"""`python train.py` and `codec train`: from the command line to a finished run."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Callback, Trainer
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from codec import assets
from codec.api import find
from codec.build import build, make
from codec.checkpoint import fill
from codec.discriminators import Discriminators
from codec.errors import CodecError, ConfigError
from codec.losses import GradientBalancer, ReconstructionLosses
from codec.models.codec import Codec
from codec.train import receipts, recipes
from codec.train.callbacks import Monitor, Validation, make_console, read_log
from codec.train.checkpoints import LAST, AtomicCheckpointIO, Checkpoints, Interrupted
from codec.train.config import RunConfig, codebook_choices, parse
from codec.train.data import EndlessData
from codec.train.objective import term_weights
from codec.train.pictures import Pictures
from codec.train.screen import screen
from codec.train.size import tiny
from codec.train.task import CodecTask

USAGE = """\
Train a neural audio codec.

  python train.py +recipe=NAME data.root=FOLDER_OR_MANIFEST [setting=value ...]
  codec train +recipe=NAME ...                    the same, once installed

Recipes:
{recipes}

Useful settings:
  data.root=PATH        folder tree of sound files or a .jsonl manifest; without it a few recordings of our own
  size=tiny             the recipe with few channels and small batches
  trainer=cpu|gpu|ddp|smoke
  resume=true           continue the run in its folder (dir=runs/NAME)
  weights=MODEL         start from a model, a weights file or a name such as default, instead of random numbers
  +teacher=hubert|wavlm|w2v_bert|whisper   distil a frozen speech model into the first codebooks
  train.steps=N  data.batch_size=N  trainer.precision=bf16-mixed  train.compile=true  seed=N
  --multirun seed=0,1,2   one run after the other
  --cfg job             print the whole configuration;  --hydra-help  the flags of Hydra"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the arguments say.

    Args:
        argv: without the program's name; those of the process by default.

    Returns:
        The exit code: 0 good, 1 failed, 2 wrong usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or any(argument in ("--help", "-h") for argument in arguments):
        print(USAGE.format(recipes=recipes.listing()))
        return 0 if arguments else 2
    try:
        for argument in arguments:
            if found := re.fullmatch(r"\+{0,2}recipe=(.+)", argument):
                for name in found[1].split(","):
                    recipes.check(name)
        arguments = [re.sub(r"^\+{0,2}recipe=", "+recipe=", argument) for argument in arguments]
        recipes.register(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return _through_hydra(arguments)


def _through_hydra(arguments: list[str]) -> int:
    command = sys.argv
    failures: list[str] = []

    def job(cfg: DictConfig) -> float:
        # the launcher of a distributed run repeats the command as it was typed
        sys.argv = command
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            cfg.dir = HydraConfig.get().runtime.output_dir
        try:
            metrics, objects = train(cfg)
        except CodecError as error:
            # printed here: Hydra would add a traceback, and a sweep goes on with its next run
            failures.append(str(error))
            print(f"error: {error}", file=sys.stderr)
            return float("nan")
        return metrics.get(objects["config"].checkpoint.best, float("nan"))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come out as they are
    sys.argv = ["train", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(assets.root() / "conf"), config_name="config")(job)()
    except MissingConfigException as error:
        # what there is instead, without the folders that were searched
        print("error:", " ".join(str(error).partition("Config search path:")[0].split()), file=sys.stderr)
        return 2
    except (HydraException, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # --hydra-help, --cfg
        return int(stop.code or 0)
    finally:
        sys.argv = command
    return 1 if failures else 0


def train(cfg: DictConfig) -> tuple[dict[str, float], dict[str, Any]]:
    """Run a composed configuration from its start, or from its checkpoint, to its end.

    A signal ends it early and cleanly, with its state saved.

    Returns:
        The metrics of the last validation, and the objects: config, codec, task, data, trainer.

    Raises:
        ConfigError: something in the configuration does not exist or does not fit, before any step.
        CodecError: the run cannot go on.
    """
    config = parse(cfg)
    if config.size == "tiny":
        config = tiny(config)
    _quiet()
    folder = Path(config.dir)
    checkpoint = _starting_point(config, folder)
    torch.manual_seed(config.seed)
    codec = build(config.codec, allow=True)
    if config.hop is not None and codec.hop != config.hop:
        raise ConfigError(f"the model's strides multiply to {codec.hop}, but the hop is {config.hop}")
    origin = {}
    pretrained = bool(config.weights) and checkpoint is None
    if pretrained:
        origin["weights"] = fill(codec, find(str(config.weights)), config.codec)["fingerprint"]
    data = make_data(config, codec)
    provenance = {
        "config": config.codec,
        "recipe": config.name,
        "seed": config.seed,
        "data": describe_data(config, data),
        **origin,
    }
    frames = 16 * max(codec.quantizer.codebook_sizes)
    most = 1024 if config.batch_limit is None else 4 * config.batch_limit
    crops = partial(first_crops, data, frames * codec.hop, most)
    task = make_task(
        config,
        codec,
        batches_per_epoch=data.batches_per_epoch,
        crops=crops,
        pretrained=pretrained,
        provenance=provenance,
    )

    console = make_console()
    checkpoints = Checkpoints(folder, config.checkpoint)
    monitor = Monitor(folder, config.log, console)
    validation = Validation(monitor, checkpoints)
    trainer = make_trainer(config, [monitor, Pictures(config.log.clips), validation, checkpoints])
    if trainer.is_global_zero:
        with torch.random.fork_rng(devices=[]):  # other ranks print nothing, and must draw the same
            console.print(screen(config, task, data, trainer))
        for note in [*task.notes, *data.notes, *data.report()]:
            console.print(f"note: {note}", style="yellow", highlight=False, soft_wrap=True)
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        task.initialise()
    if config.train.compile:
        compile_networks(codec)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted:
        console.print(f"stopped at step {task.global_step}; resume=true continues from {folder / LAST}")
    if trainer.is_global_zero:
        receipts.write(folder / "receipt.json", receipts.receipt(config, task, data, read_log(monitor.path)))
    return task.metrics, {
        "config": config,
        "codec": codec,
        "task": task,
        "data": data,
        "trainer": trainer,
    }


def make_data(config: RunConfig, codec: Codec) -> EndlessData:
    """The data module."""
    settings = dict(config.data)
    if config.batch_limit is not None:
        settings["batch_size"] = min(settings["batch_size"], config.batch_limit)
    return EndlessData(sample_rate=codec.sample_rate, channels=codec.channels, seed=config.seed, **settings)


def first_crops(data: EndlessData, samples: int, most: int) -> Tensor:
    """About `samples` samples of training crops `(B, C, N)`, at least 64 and at most `most` crops."""
    count = min(most, max(64, samples // data.dataset.length))
    return torch.from_numpy(np.stack([data.dataset[number]["audio"] for number in range(count)]))


def describe_data(config: RunConfig, data: EndlessData) -> dict[str, Any]:
    """What the run trains on, in plain values."""
    keys = ("root", "corpus", "splits", "filters", "sources")
    return {key: config.data[key] for key in keys if config.data.get(key)} | data.summary


def compile_networks(codec: Codec) -> None:
    """Hand encoder and decoder to `torch.compile`, in place; they are compiled when they first run."""
    codec.encoder.compile()
    codec.decoder.compile()


def make_task(
    config: RunConfig,
    codec: Codec,
    *,
    batches_per_epoch: int = 1,
    crops: Callable[[], Tensor] | None = None,
    pretrained: bool = False,
    provenance: dict[str, Any] | None = None,
) -> CodecTask:
    """Codec, losses and discriminators joined for training.

    Raises:
        ConfigError: a part does not exist, a weight has no loss or a loss no weight.
    """
    given = {"sample_rate": codec.sample_rate, "channels": codec.channels}
    losses = ReconstructionLosses(
        {label: make("loss", spec, allow=True, **given) for label, spec in config.loss.terms.items()}
    )
    found = {
        label: make("discriminator", spec, allow=True, **given)
        for label, spec in config.discriminator.items()
    }
    adversarial, feature, teacher = config.loss.adversarial, config.loss.feature, config.loss.teacher
    if found and adversarial is None:
        raise ConfigError("there are discriminators, but loss.adversarial is not set")
    names = list(losses.names) + ["adv"] * bool(found) + ["fm"] * bool(found and feature)
    weights, notes = term_weights(
        config.loss.weights, [*names, *["teacher"] * bool(teacher)], codec.quantizer
    )
    balancer = None
    if config.loss.balancer is not None:
        audible = {name: weight for name, weight in weights.items() if name in names and weight}
        balancer = GradientBalancer(audible, **config.loss.balancer)
    rates = {count: codec.bitrate(count) for count in codec.quantizer.prefixes}
    return CodecTask(
        codec,
        losses,
        weights,
        config.optim,
        config.train,
        discriminators=Discriminators(found) if found else None,
        adversarial=make("loss", adversarial, allow=True) if found and adversarial else None,
        feature=make("loss", feature, allow=True) if found and feature else None,
        teacher=make("loss", teacher, allow=True, dim=codec.quantizer.dim, hop=codec.hop, **given)
        if teacher
        else None,
        balancer=balancer,
        choices=codebook_choices(config, rates),
        seed=config.seed,
        batches_per_epoch=batches_per_epoch,
        crops=crops,
        pretrained=pretrained,
        provenance=provenance,
        notes=notes,
    )


def make_trainer(config: RunConfig, callbacks: Sequence[Callback]) -> Trainer:
    """The Lightning trainer; Lightning's own bar, summary and checkpoints are off.

    Raises:
        ConfigError: this machine has no such device, or a setting of the trainer or the logger does not exist.
    """
    settings = {"max_steps": config.train.steps} | dict(config.trainer)
    try:
        logger = instantiate(config.logger) if config.logger else False
        return instantiate(
            settings,
            _convert_="all",
            callbacks=list(callbacks),
            logger=logger,
            plugins=[AtomicCheckpointIO()],
            max_epochs=-1,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=-1,  # the first row of the curve is the codec before it trains
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
            default_root_dir=config.dir,
        )
    except InstantiationException as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(f"the trainer or its logger cannot be made: {cause}") from error


def _quiet() -> None:
    """Keep Lightning's tips and warnings out of the terminal."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    # a run gives k-means 16 frames for each code, unless batch_limit forbids it
    warnings.filterwarnings("ignore", message="k-means start")
    warnings.filterwarnings(
        "ignore", message="Grad strides do not match bucket view"
    )  # discriminators, in ddp


def _starting_point(config: RunConfig, folder: Path) -> Path | None:
    """The checkpoint to continue from, or None for a fresh run."""
    last = folder / LAST
    if config.resume is True:
        return last if last.exists() else None
    if config.resume is False:
        if last.exists():
            raise ConfigError(
                f"{folder} holds a run: resume=true continues it, dir={folder}-2 starts another beside it"
            )
        return None
    path = Path(str(config.resume))
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint {path} to resume from")
    return path


if __name__ == "__main__":
    sys.exit(main())
