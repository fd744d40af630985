"""The parts of a run, made of its configuration: data, task, trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning import Callback, Trainer
from torch import Tensor

from codec.build import keywords, make
from codec.discriminators import Discriminators
from codec.errors import ConfigError, suggestion
from codec.losses import GradientBalancer, ReconstructionLosses
from codec.models.codec import Codec
from codec.train.checkpoints import AtomicCheckpointIO
from codec.train.config import RunConfig, codebook_choices
from codec.train.data import EndlessData
from codec.train.objective import term_weights
from codec.train.task import CodecTask


def make_data(config: RunConfig, codec: Codec) -> EndlessData:
    """The data module.

    Raises:
        ConfigError: there is nothing to train on, or a setting does not exist.
    """
    settings = dict(config.data)
    takes = list(keywords(EndlessData))
    for key in settings:
        if key not in takes:
            hint = suggestion(key, takes, "; did you mean 'data.{}'?")
            raise ConfigError(f"there is no setting 'data.{key}'{hint}")
    if config.batch_limit is not None:
        settings["batch_size"] = min(settings["batch_size"], config.batch_limit)
    return EndlessData(sample_rate=codec.sample_rate, channels=codec.channels, seed=config.seed, **settings)


def first_crops(config: RunConfig, data: EndlessData, codec: Codec) -> Tensor:
    """Training crops `(B, C, N)` to initialise from: about 16 frames for each code, at least 64 crops, at most 1024."""
    frames = 16 * max(codec.quantizer.codebook_sizes)
    most = 1024 if config.batch_limit is None else 4 * config.batch_limit
    count = min(most, max(64, frames * codec.hop // data.dataset.length))
    return torch.from_numpy(np.stack([data.dataset[number]["audio"] for number in range(count)]))


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


def make_logger(settings: dict[str, Any]) -> Any:
    """The logger that the settings name, by Hydra's `_target_` or as a part is; False for none."""
    if not settings:
        return False
    return instantiate(settings) if "_target_" in settings else make("logger", settings, allow=True)


def make_trainer(config: RunConfig, callbacks: Sequence[Callback]) -> Trainer:
    """The Lightning trainer; Lightning's own bar, summary and checkpoints are off.

    Raises:
        ConfigError: this machine has no such device, or a setting of the trainer or the logger does not exist.
    """
    settings = {"max_steps": config.train.steps} | dict(config.trainer)
    try:
        logger = make_logger(config.logger)
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
