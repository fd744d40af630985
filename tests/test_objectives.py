"""Every discriminator and loss configuration builds, and one adversarial step with it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from codec.build import make
from codec.discriminators import Discriminators
from codec.losses import GradientBalancer, ReconstructionLosses
from codec.quantizers import LOSS_WEIGHTS

CONF = Path(__file__).parents[1] / "conf"
RATES = {"sample_rate": 16000, "channels": 1}


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def discriminators(name: str) -> Discriminators:
    spec = load(CONF / "discriminator" / f"{name}.yaml")
    return Discriminators(
        {label: make("discriminator", part | {"width": 2}, **RATES) for label, part in spec.items()}
    )


def objective(name: str) -> tuple[ReconstructionLosses, dict[str, Any]]:
    spec = load(CONF / "loss" / f"{name}.yaml")
    return ReconstructionLosses(
        {label: make("loss", part, **RATES) for label, part in spec["terms"].items()}
    ), spec


@pytest.mark.parametrize("name", [n for n in names("discriminator") if n != "none"])
def test_discriminators_step(name: str) -> None:
    torch.manual_seed(0)
    disc = discriminators(name)
    adversarial, feature = make("loss", {"name": "hinge"}), make("loss", {"name": "feature_normalized"})
    audio = 0.1 * torch.randn(1, 1, 2048)
    estimate = (0.1 * torch.randn(1, 1, 2048)).requires_grad_()
    real, fake = disc.pair(audio, estimate)
    adversarial.discriminator_loss(real, fake).backward(retain_graph=True, inputs=list(disc.parameters()))
    assert estimate.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in disc.parameters())
    terms = adversarial.generator_loss(fake) | feature(real, fake)
    (gradient,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), estimate)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", names("loss"))
def test_objective_weighs_its_terms(name: str) -> None:
    losses, spec = objective(name)
    adversary = {"adv", "fm"} if spec["adversarial"] else set()
    assert set(spec["weights"]) - set(LOSS_WEIGHTS) == set(losses.names) | adversary
    assert bool(spec["adversarial"]) == bool(spec["feature"])
    assert any(spec["weights"].values())


@pytest.mark.parametrize("name", names("loss"))
def test_objective_gives_the_audio_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    losses, spec = objective(name)
    estimate = (0.1 * torch.randn(2, 1, 4096)).requires_grad_()
    terms = losses(estimate, 0.1 * torch.randn(2, 1, 4096))
    if spec["balancer"] is None:
        weighted = torch.stack([spec["weights"][label] * value for label, value in terms.items()]).sum()
    else:
        weighted = GradientBalancer(spec["weights"], **spec["balancer"])(terms, estimate)
    weighted.backward()
    gradient = gradient_of(estimate)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad
