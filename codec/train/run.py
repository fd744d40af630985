"""One run, from a composed configuration to its end."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from codec.build import build, make
from codec.checkpoint import find
from codec.errors import ConfigError
from codec.train import receipts
from codec.train.assembly import compile_networks, first_crops, make_data, make_task, make_trainer
from codec.train.callbacks import Monitor, Validation
from codec.train.checkpoints import LAST, Checkpoints, Interrupted
from codec.train.config import RunConfig, parse
from codec.train.data import EndlessData
from codec.train.log import RunLog
from codec.train.pictures import Pictures
from codec.train.pretrained import fill
from codec.train.progress import ProgressLine, make_console
from codec.train.screen import screen
from codec.train.size import tiny


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
    checkpoint = _checkpoint(config, folder)
    torch.manual_seed(config.seed)
    codec = build(config.codec, allow=True)
    if config.hop is not None and codec.hop != config.hop:
        raise ConfigError(f"the model's strides multiply to {codec.hop}, but the hop is {config.hop}")
    provenance: dict[str, Any] = {"config": config.codec, "recipe": config.name, "seed": config.seed}
    pretrained = bool(config.weights) and checkpoint is None
    if pretrained:
        provenance["weights"] = fill(codec, find(str(config.weights)), config.codec)["fingerprint"]
    data = make_data(config, codec)
    task = make_task(
        config,
        codec,
        batches_per_epoch=data.batches_per_epoch,
        crops=partial(first_crops, config, data, codec),
        pretrained=pretrained,
        provenance=provenance | {"data": describe_data(config, data)},
    )
    progress, log = ProgressLine(make_console()), RunLog(folder)
    checkpoints = Checkpoints(folder, config.checkpoint)
    callbacks = [
        Monitor(log, config.log, progress),
        Pictures(config.log.clips),
        *(make("callback", spec, allow=True) for spec in config.callbacks.values()),
        Validation(log, checkpoints, progress),
        checkpoints,
    ]
    trainer = make_trainer(config, callbacks)
    _refuse_to_overwrite(config, folder)  # last, for it is the least to mend
    if trainer.is_global_zero:
        with torch.random.fork_rng(devices=[]):  # other ranks print nothing, and must draw the same
            progress.console.print(screen(config, task, data, trainer))
        for note in [*task.notes, *data.notes, *data.report()]:
            progress.warn(f"note: {note}")
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is None:
        task.initialise()
    if config.train.compile:
        compile_networks(codec)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        ending = f"finished {task.global_step} steps in {folder}"
        if checkpoints.wanted:
            ending += f"; next: codec export {folder} {config.name}.safetensors"
    except Interrupted:
        ending = f"stopped at step {task.global_step}; resume=true continues from {folder / LAST}"
    if trainer.is_global_zero:
        progress.print(ending)
        receipts.write(folder / "receipt.json", receipts.receipt(config, task, data, log.rows()))
    return task.metrics, {
        "config": config,
        "codec": codec,
        "task": task,
        "data": data,
        "trainer": trainer,
    }


def describe_data(config: RunConfig, data: EndlessData) -> dict[str, Any]:
    """What the run trains on, in plain values."""
    keys = ("root", "corpus", "splits", "filters", "sources")
    return {key: config.data[key] for key in keys if config.data.get(key)} | data.summary


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


def _checkpoint(config: RunConfig, folder: Path) -> Path | None:
    """The checkpoint to continue from, or None for a fresh run."""
    if isinstance(config.resume, bool):
        return folder / LAST if config.resume and (folder / LAST).exists() else None
    path = Path(str(config.resume))
    if not path.is_file():
        raise ConfigError(f"there is no checkpoint {path} to resume from")
    return path


def _refuse_to_overwrite(config: RunConfig, folder: Path) -> None:
    if config.resume is False and (folder / LAST).exists():
        raise ConfigError(
            f"{folder} holds a run: resume=true continues it, dir={folder}-2 starts another beside it"
        )
