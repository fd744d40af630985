"""The training task: one batch trains the discriminators and the codec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.optim import Optimizer

from codec import legacy
from codec.discriminators import DiscriminatorOutput, Discriminators
from codec.errors import CheckpointError, CodecError, ConfigError
from codec.losses import LogMelLoss
from codec.models.codec import Codec, CodecOutput
from codec.train.config import OptimConfig, TrainConfig
from codec.train.meter import Meter
from codec.train.optim import Average, gradient_norm, rate_factor


class Diverged(CodecError):
    """Several batches in a row had no finite gradient."""


class CodecTask(lightning.LightningModule):
    """Adversarial training of a codec by manual optimisation.

    Every batch seeds the random generators from (seed, rank, number of the batch) and every learning rate is a
    function of the progress: a run that is killed and resumed equals an uninterrupted one.

    Args:
        codec: what is trained.
        losses: reconstruction terms, `(estimate, target)` to named scalars; has `names`.
        weights: of every term, those of the quantizer included; 0 logs it only.
        optim: optimisers, schedule, clipping, averaging.
        train: steps, and when quantizer and discriminators join.
        discriminators: None trains without an adversarial loss.
        adversarial: adversarial loss.
        feature: feature matching loss; None for none.
        teacher: semantic teacher of the first codebooks, `(first, audio)` to named scalars; trained with the codec.
        balancer: gradient balancer; None adds the weighted terms.
        choices: numbers of codebooks of which one is drawn for each batch.
        seed: of everything that is drawn.
        batches_per_epoch: batches of one pass over the data, for schedules by epoch.
        crops: gives training crops `(B, C, N)`, always the same, for what starts from data.
        pretrained: the codec starts from weights: only the discriminators are initialised from data.
        provenance: plain values that travel in the checkpoint under `codec`, for export: config, recipe, data, seed.
        notes: sentences that whoever starts the run should read.

    Raises:
        ConfigError: discriminators without an adversarial loss, or the reverse.
    """

    discriminators: Discriminators | None

    def __init__(
        self,
        codec: Codec,
        losses: nn.Module,
        weights: Mapping[str, float],
        optim: OptimConfig,
        train: TrainConfig,
        *,
        discriminators: Discriminators | None = None,
        adversarial: nn.Module | None = None,
        feature: nn.Module | None = None,
        teacher: nn.Module | None = None,
        balancer: nn.Module | None = None,
        choices: Sequence[int] | None = None,
        seed: int = 0,
        batches_per_epoch: int = 1,
        crops: Callable[[], Tensor] | None = None,
        pretrained: bool = False,
        provenance: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if (discriminators is None) != (adversarial is None):
            raise ConfigError("discriminators and loss.adversarial go together: one of them is missing")
        self.automatic_optimization = False
        self.codec = codec
        self.losses = losses
        self.discriminators = discriminators
        self.adversarial = adversarial
        self.feature = feature
        self.teacher = teacher
        self.balancer = balancer
        self.average = Average(codec, optim.ema) if optim.ema is not None else None
        # one distance for all recipes: HiFi-GAN's mel
        self.validation_mel = LogMelLoss(codec.sample_rate)
        self.weights = dict(weights)
        self.notes = list(notes)
        self.optim = optim
        self.train_config = train
        self.choices = list(choices) if choices else None
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.crops = crops
        self.pretrained = pretrained
        self.provenance = dict(provenance or {})
        self.metrics: dict[str, float] = {}
        self.batches = 0
        self.meter = Meter(codec.quantizer.codebook_sizes)
        self._bad: list[list[str]] = []
        self._finite_codebooks: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """Passes over the data that are complete."""
        return self.batches // self.batches_per_epoch

    @property
    def evaluated_codec(self) -> Codec:
        """The weights that are validated and exported: the moving average, if there is one."""
        return self.codec if self.average is None else self.average.module  # type: ignore[return-value]

    def initialise(self) -> None:
        """Before a fresh run: what is initialised from data, from the crops."""
        assert self.crops is not None
        crops = self.crops()
        if not self.pretrained:
            self.codec.initialise(crops)
        if self.discriminators is not None:
            self.discriminators.initialise(crops[:8].to(self.codec.device))
        if not self.pretrained and self.train_config.q_start == 0:
            self.initialise_codebooks()
        if self.average is not None:
            self.average.update(self.codec, updates=0, decay=0.0)

    def initialise_codebooks(self) -> None:
        """Before the first quantized batch: the codebooks, from the latents of the crops."""
        assert self.crops is not None
        self.codec.initialise_codebooks(self.crops().to(self.codec.device))
        if self.average is not None:
            self.average.module.quantizer.load_state_dict(self.codec.quantizer.state_dict())  # type: ignore[union-attr]

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """One batch `{"audio": (B, C, N), "path": [...], "start": [...]}`."""
        audio = batch["audio"]
        self._seed_batch()
        self._set_rates()
        if self.batches == self.train_config.q_start > 0:
            self.initialise_codebooks()
        quantize = self.batches >= self.train_config.q_start
        output = self.codec(audio, num_codebooks=self._draw_codebooks(), quantize=quantize)
        # the graph is cut at the decoded audio: each network's gradient goes through what is its own
        estimate = output.audio.detach().float().requires_grad_()
        terms = self.terms(estimate, audio)
        norms: dict[str, Tensor] = {}
        if self.discriminators is not None and self.batches >= self.train_config.d_start:
            real, fake = self.discriminators.pair(audio, estimate)
            if self.batches % self.train_config.d_every == 0:
                norms["norm_disc"] = self._discriminator_step(real, fake)
            terms |= self._adversarial_terms(real, fake)
        norms["norm"] = self._generator_step(
            output, estimate, terms, output.losses | self._distillation(output, audio)
        )
        finite = all(bool(norm.isfinite()) for norm in norms.values())
        self.meter.add(norms)
        self._step(output.codes, finite, discriminated="norm_disc" in norms)
        self.batches += 1
        self._guard(finite, batch.get("path", []))

    def _discriminator_step(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> Tensor:
        """Give the discriminators their gradient; its norm."""
        assert self.discriminators is not None
        assert self.adversarial is not None
        loss = self.adversarial.discriminator_loss(real, fake)  # type: ignore[operator]
        parameters = list(self.discriminators.parameters())
        # the codec's gradient goes through the same graph afterwards
        self.manual_backward(loss, retain_graph=True, inputs=[p for p in parameters if p.requires_grad])
        self.meter.add({"disc": loss})
        return gradient_norm(parameters, self.optim.clip_discriminator)

    def _generator_step(
        self, output: CodecOutput, estimate: Tensor, terms: Mapping[str, Tensor], rest: Mapping[str, Tensor]
    ) -> Tensor:
        """Give the codec its gradient, of the terms of its audio `estimate` and of the rest; its norm."""
        audible, loss = self._audible(terms, estimate), self._weighted(rest)
        total = audible.detach() + loss.detach()
        if audible.requires_grad:
            (gradient,) = torch.autograd.grad(audible, estimate)
            loss = loss + (output.audio * gradient).sum(dtype=torch.float32)
        self.manual_backward(loss)
        self.meter.add({**terms, **rest, "loss": total})
        return gradient_norm(self.generator_parameters(), self.optim.clip)

    def _step(self, codes: Tensor, finite: bool, *, discriminated: bool) -> None:
        """Both networks step, or neither if a gradient is not finite."""
        optimizers = self.optimizers()
        optimizer = optimizers[0] if isinstance(optimizers, list) else optimizers
        if finite:
            optimizer.step()
            if discriminated:
                # the raw optimiser: a wrapped one would count its steps as steps of the run
                self._optimizers()[1].step()
            self.meter.count(codes)
            if self.average is not None:
                self.average.update(self.codec, self.global_step - 1)
        for one in self._optimizers():
            one.zero_grad(set_to_none=True)

    def terms(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Reconstruction terms, in float32 whatever the precision of the networks."""
        with torch.autocast(target.device.type, enabled=False):
            return dict(self.losses(estimate.float(), target.float()))

    def _adversarial_terms(self, real: DiscriminatorOutput, fake: DiscriminatorOutput) -> dict[str, Tensor]:
        assert self.adversarial is not None
        terms = dict(self.adversarial.generator_loss(fake))  # type: ignore[operator]
        return terms if self.feature is None else terms | self.feature(real, fake)

    def _distillation(self, output: CodecOutput, audio: Tensor) -> dict[str, Tensor]:
        return {} if self.teacher is None else self.teacher(output.first, audio)

    def _audible(self, terms: Mapping[str, Tensor], estimate: Tensor) -> Tensor:
        """What the terms of the decoded audio add up to, by their weights or through the balancer."""
        if self.balancer is None:
            return self._weighted(terms)
        total = self.balancer(dict(terms), estimate)
        self.meter.add(self.balancer.metrics)  # type: ignore[arg-type]
        return total

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), device=self.device)
        for name, value in terms.items():
            if self.weights[name]:
                total = total + self.weights[name] * value.float()
        return total

    def _guard(self, finite: bool, paths: Sequence[str]) -> None:
        """Count batches that had to be skipped; stop when there are too many in a row."""
        if finite:
            self._bad.clear()
            return
        self._bad.append(list(paths))
        self._restore_codebooks()
        self.meter.add({"skipped": torch.ones(())})
        if len(self._bad) >= self.train_config.patience:
            files = sorted({path for batch in self._bad for path in batch})
            raise Diverged(
                f"{len(self._bad)} batches in a row (the last is number {self.batches}) gave no finite gradient: "
                "training has diverged or the audio is damaged; lower the learning rate or look at "
                + ", ".join(files)
            )

    def keep_codebooks(self) -> None:
        """Keep a copy of the quantizer if it is finite: a batch that explodes may spoil codebooks updated by EMA."""
        state = self.codec.quantizer.state_dict()
        if all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point()):
            self._finite_codebooks = {name: value.clone() for name, value in state.items()}

    def _restore_codebooks(self) -> None:
        state = self.codec.quantizer.state_dict()
        broken = not all(bool(v.isfinite().all()) for v in state.values() if v.is_floating_point())
        if broken and self._finite_codebooks:
            self.codec.quantizer.load_state_dict(self._finite_codebooks)

    @torch.no_grad()
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Named scalars of one batch, its decoded audio and its codes; callbacks collect them."""
        audio = batch["audio"]
        codec = self.evaluated_codec
        was = codec.training
        output = codec.eval()(audio)
        codec.train(was)
        estimate = output.audio.float()
        distance = self.validation_mel(estimate, audio)["mel"]
        return {
            "mel_distance": distance,
            **self.terms(estimate, audio),
            **self._distillation(output, audio),
            "estimate": estimate,
            "codes": output.codes,
        }

    def configure_optimizers(self) -> list[Optimizer]:
        """Generator first, then discriminators."""
        optimizers = [_optimizer(self.optim.generator, self.generator_parameters())]
        if self.discriminators is not None:
            optimizers.append(_optimizer(self.optim.discriminator, self.discriminators.parameters()))
        return optimizers

    def generator_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the generator step trains: the codec's and those of the teacher's linear map."""
        yield from self.codec.parameters()
        if self.teacher is not None:
            yield from self.teacher.parameters()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the progress; random states need no saving, for every batch seeds them."""
        checkpoint["batches"] = self.batches
        checkpoint["codec"] = self.provenance | {"steps": self.global_step, "metrics": self.metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the progress back.

        Raises:
            CheckpointError: the checkpoint is of other networks than this configuration's.
        """
        checkpoint["state_dict"] = legacy.tensors(checkpoint["state_dict"], self.state_dict())
        theirs, ours = checkpoint["state_dict"], self.state_dict()
        other = [
            name for name in sorted(theirs.keys() | ours.keys()) if _shape(theirs, name) != _shape(ours, name)
        ]
        if other:
            raise CheckpointError(
                f"the checkpoint is of another configuration than this run's: {len(other)} tensors differ, "
                f"the first is {other[0]}; give the settings that the run began with, or start anew in another dir"
            )
        self.batches = checkpoint["batches"]
        self.metrics = checkpoint["codec"]["metrics"]
        if "weights" in checkpoint["codec"]:
            self.provenance["weights"] = checkpoint["codec"]["weights"]

    def on_fit_start(self) -> None:
        """Give the data the position of the run: a loader that reads ahead cannot know how much was trained on."""
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            data.load_state_dict({"position": self.batches})

    def _optimizers(self) -> list[Optimizer]:
        found = self.optimizers(use_pl_optimizer=False)
        return found if isinstance(found, list) else [found]

    @property
    def learning_rate(self) -> float:
        """Of the generator, now."""
        return self._optimizers()[0].param_groups[0]["lr"]

    def _set_rates(self) -> None:
        factor = rate_factor(
            self.optim.schedule,
            self.global_step,
            self.epoch,
            steps=self.train_config.steps,
            steps_per_epoch=self.batches_per_epoch,
        )
        for optimizer in self._optimizers():
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def _seed_batch(self) -> None:
        torch.manual_seed(_seed(self.seed, self.batches, self.global_rank))

    def _draw_codebooks(self) -> int | None:
        """The same number on every rank, for codebooks are updated from all ranks together."""
        if self.choices is None:
            return None
        return self.choices[_seed(self.seed, self.batches) % len(self.choices)]


def _optimizer(settings: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    try:
        make = instantiate(dict(settings), _partial_=True, _convert_="all")
        return make([p for p in parameters if p.requires_grad])
    except Exception as error:
        cause = error.__cause__ or error
        raise ConfigError(f"the optimiser {settings.get('_target_')} cannot be made: {cause}") from error


def _shape(state: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
