"""The configuration of a run: typed, checked before the first step, one sentence per mistake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from codec.errors import ConfigError

SCHEDULES = ("constant", "cosine", "exponential", "trapezoid")


@dataclass
class LossConfig:
    """Terms of the objective and their weights.

    Attributes:
        terms: label to reconstruction loss, `{name, ...}`.
        adversarial: kind of adversarial loss, `{name}`; None without discriminators.
        feature: kind of feature matching, `{name}`; None without it.
        teacher: semantic teacher of the first codebooks, `{name, source, ...}`; None without it.
        weights: term to weight, of every term there is; 0 logs a term only.
        balancer: settings of the gradient balancer; None adds the weighted terms.
    """

    terms: dict[str, Any] = field(default_factory=dict)
    adversarial: dict[str, Any] | None = None
    feature: dict[str, Any] | None = None
    teacher: dict[str, Any] | None = None
    weights: dict[str, float] = field(default_factory=dict)
    balancer: dict[str, Any] | None = None


@dataclass
class ScheduleConfig:
    """Learning rate over time, a factor on both optimisers' rates.

    Attributes:
        name: constant, cosine (to `floor` at the last step), exponential (times `gamma` each `every`) or trapezoid
            (constant, then straight down to `floor` over the last `decay` steps: a run whose end is not yet known).
        every: step or epoch: how often the factor changes.
        warmup: steps of linear rise at the start.
        gamma: factor of one exponential step.
        decay: steps of the fall at the end of a trapezoid.
        floor: lowest factor.
    """

    name: str = "constant"
    every: str = "step"
    warmup: int = 0
    gamma: float = 1.0
    decay: int = 0
    floor: float = 0.0


@dataclass
class OptimConfig:
    """Optimisers of both networks.

    Attributes:
        generator: optimiser of encoder, quantizer and decoder, `{_target_, lr, ...}`.
        discriminator: optimiser of the discriminators.
        schedule: of both.
        clip: largest gradient norm of the generator; None leaves gradients alone.
        clip_discriminator: the same for the discriminators.
        ema: decay per step of the averaged weights, which validation and export use; None for no average.
    """

    generator: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    clip: float | None = None
    clip_discriminator: float | None = None
    ema: float | None = None


@dataclass
class TrainConfig:
    """How long a run trains, and when its parts join.

    Attributes:
        steps: generator steps in all.
        q_start: batch from which latents are quantized; the codebooks are initialised from the latents then. Codes
            cannot follow the first steps of an encoder, and latents that reach only wrong codes collapse to one.
        d_start: batch from which the discriminators train and count in the objective.
        d_every: they train on every n-th batch.
        codebooks: numbers of codebooks, one drawn for each batch (repeat a number to draw it more often); None
            leaves it to the quantizer.
        bandwidths: the same in kbps.
        patience: batches in a row without a finite gradient after which the run stops.
        compile: hand encoder and decoder to torch.compile.
    """

    steps: int = 100_000
    q_start: int = 0
    d_start: int = 0
    d_every: int = 1
    codebooks: list[int] | None = None
    bandwidths: list[float] | None = None
    patience: int = 5
    compile: bool = False


@dataclass
class CheckpointConfig:
    """When the state of the run is saved; `last.ckpt` and `best.ckpt` are kept.

    Attributes:
        minutes: save when this much time has passed; None for never.
        steps: save every so many batches; None for never.
        best: metric of validation; its lowest value marks the best checkpoint.
    """

    minutes: float | None = 5.0
    steps: int | None = None
    best: str = "mel_distance"


@dataclass
class LogConfig:
    """What is reported.

    Attributes:
        every: batches between two rows of the log.
        collapse: a codebook that uses a smaller share of its codes is reported.
        clips: validation clips that are stored as audio and mel pictures.
    """

    every: int = 50
    collapse: float = 0.05
    clips: int = 2


@dataclass
class RunConfig:
    """Everything that makes a run.

    Attributes:
        name: of the run.
        dir: folder of everything it writes.
        resume: false, true (continue `dir`) or the path of a checkpoint.
        weights: model from which a fresh run starts, a name or a weights file; None starts from random numbers.
        seed: of weights, data and all draws.
        size: full, or tiny: the same structure with few channels.
        hop: what the strides must multiply to; None is not checked.
        batch_limit: no batch is larger; None for no limit.
        model: sample rate, channels, encoder, decoder: what travels in a checkpoint, with `quantizer`.
        quantizer: `{name, ...}`.
        discriminator: label to discriminator; empty trains without an adversarial loss.
        loss: the objective.
        optim: optimisers, schedule, clipping, averaging.
        train: steps, and when quantizer and discriminators join.
        data: settings of the data module.
        trainer: of `lightning.Trainer`, `{_target_, ...}`.
        logger: `{_target_, ...}` or `{name: my_package.my_module:MyLogger, ...}`; empty for none.
        checkpoint: when the state is saved.
        log: what is reported.
        callbacks: label to callback of Lightning, `{name: my_package.my_module:MyCallback, ...}`.
    """

    name: str = "run"
    dir: str = "runs/run"
    resume: Any = False
    weights: str | None = None
    seed: int = 0
    size: str = "full"
    hop: int | None = None
    batch_limit: int | None = None
    model: dict[str, Any] = field(default_factory=dict)
    quantizer: dict[str, Any] = field(default_factory=dict)
    discriminator: dict[str, Any] = field(default_factory=dict)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    callbacks: dict[str, Any] = field(default_factory=dict)

    @property
    def codec(self) -> dict[str, Any]:
        """What describes the codec inside a checkpoint."""
        return {"model": self.model, "quantizer": self.quantizer}


def parse(cfg: DictConfig) -> RunConfig:
    """The typed form of a composed configuration.

    Raises:
        ConfigError: a key does not exist, or a value has the wrong type or is out of range.
    """
    if "recipe" in cfg:
        raise ConfigError(
            "'recipe' was taken as a setting: recipes are not registered; start through train.py"
        )
    try:
        plain = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    except ConfigKeyError as error:
        raise ConfigError(f"there is no setting {error.full_key!r}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {str(error).splitlines()[0]}") from error
    assert isinstance(config, RunConfig)
    _check_values(config)
    return config


def _check_values(config: RunConfig) -> None:
    schedule, train = config.optim.schedule, config.train
    wrong = [
        (
            schedule.name not in SCHEDULES,
            f"optim.schedule.name is {schedule.name!r}, not {', '.join(SCHEDULES)}",
        ),
        (
            schedule.every not in ("step", "epoch"),
            f"optim.schedule.every is {schedule.every!r}, not step, epoch",
        ),
        (config.size not in ("full", "tiny"), f"size is {config.size!r}, not full or tiny"),
        (
            bool(config.weights) and train.q_start > 0,
            f"train.q_start is {train.q_start}, which initialises the codebooks anew then: with weights it must be 0",
        ),
        (train.d_every < 1, f"train.d_every is {train.d_every}, it must be at least 1"),
        (train.patience < 1, f"train.patience is {train.patience}, it must be at least 1"),
        (train.steps < 1, f"train.steps is {train.steps}, it must be at least 1"),
        (config.log.every < 1, f"log.every is {config.log.every}, it must be at least 1"),
        (
            train.codebooks is not None and train.bandwidths is not None,
            "train.codebooks and train.bandwidths say the same thing: set only one",
        ),
        (
            config.optim.ema is not None and not 0 < config.optim.ema < 1,
            f"optim.ema is {config.optim.ema}, it must lie between 0 and 1",
        ),
        ("_target_" not in config.optim.generator, "optim.generator names no optimiser (_target_)"),
        (
            bool(config.discriminator) and "_target_" not in config.optim.discriminator,
            "optim.discriminator names no optimiser (_target_)",
        ),
        *(
            (
                not isinstance(value, number) or isinstance(value, bool) or value <= 0,
                f"{name} is {value!r}, not a positive number",
            )
            for name, value, number in (
                ("data.samples", config.data.get("samples"), int),
                ("data.batch_size", config.data.get("batch_size"), int),
                ("optim.generator.lr", config.optim.generator.get("lr") or 1.0, int | float),
                ("optim.discriminator.lr", config.optim.discriminator.get("lr") or 1.0, int | float),
            )
        ),
        ("_target_" not in config.trainer, "trainer names no trainer (_target_)"),
        (
            str(config.trainer.get("precision", "32-true")) not in ("32-true", "bf16-mixed"),
            f"trainer.precision is {config.trainer.get('precision')}: use 32-true or bf16-mixed "
            "(16-mixed would scale the gradients of one network only)",
        ),
    ]
    for bad, sentence in wrong:
        if bad:
            raise ConfigError(sentence)


def codebook_choices(config: RunConfig, rates: dict[int, float]) -> list[int] | None:
    """The numbers of codebooks to draw from.

    Args:
        config: the run's.
        rates: legal number of codebooks to bits per second.

    Raises:
        ConfigError: a number or a bandwidth that no prefix of the codebooks gives.
    """
    train = config.train
    if train.bandwidths is not None:
        table = {f"{rate / 1000:g}": count for count, rate in rates.items()}
        for wanted in train.bandwidths:
            if f"{wanted:g}" not in table:
                raise ConfigError(
                    f"no number of codebooks gives {wanted:g} kbps; there are {', '.join(table)} kbps"
                )
        return [table[f"{wanted:g}"] for wanted in train.bandwidths]
    for count in train.codebooks or ():
        if count not in rates:
            raise ConfigError(
                f"train.codebooks asks for {count} codebooks; legal are {', '.join(map(str, rates))}"
            )
    return train.codebooks
