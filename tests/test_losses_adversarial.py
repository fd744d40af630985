"""Adversarial losses and feature matching by hand, and the balancer against its published rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from codec.losses import (
    FeatureLoss,
    GradientBalancer,
    HingeLoss,
    LeastSquaresLoss,
    NormalizedFeatureLoss,
)


def audio(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape)


def output(*logits: list[float], features: list[list[Tensor]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(logits=[torch.tensor(logit) for logit in logits], features=features or [])


class TestAdversarial:
    real, fake = output([2.0, 0.0], [0.5]), output([-2.0, 0.5], [1.5])

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_least_squares(self, reduction: str) -> None:
        loss, n = LeastSquaresLoss(reduction=reduction), 2 if reduction == "mean" else 1  # type: ignore[arg-type]
        expected = (1 + 1) / 2 + (4 + 0.25) / 2 + 0.25 + 2.25
        assert float(loss.discriminator_loss(self.real, self.fake)) == pytest.approx(expected / n)
        assert float(loss.generator_loss(self.fake)["adv"]) == pytest.approx(((9 + 0.25) / 2 + 0.25) / n)

    @pytest.mark.parametrize("reduction", ["sum", "mean"])
    def test_hinge(self, reduction: str) -> None:
        loss, n = HingeLoss(reduction=reduction), 2 if reduction == "mean" else 1  # type: ignore[arg-type]
        expected = (0 + 1) / 2 + (0 + 1.5) / 2 + 0.5 + 2.5
        assert float(loss.discriminator_loss(self.real, self.fake)) == pytest.approx(expected / n)
        assert float(loss.generator_loss(self.fake)["adv"]) == pytest.approx(((3 + 0.5) / 2 + 0.0) / n)
        endless = HingeLoss(reduction=reduction, saturate=False)  # type: ignore[arg-type]
        assert float(endless.generator_loss(self.fake)["adv"]) == pytest.approx((0.75 - 1.5) / n)

    def test_unknown_reduction(self) -> None:
        for kind in (LeastSquaresLoss, HingeLoss, FeatureLoss):
            with pytest.raises(ValueError, match="'max'"):
                kind(reduction="max")  # type: ignore[arg-type]

    def test_features(self) -> None:
        real = output(features=[[torch.tensor([2.0, -2.0])], [torch.tensor([4.0]), torch.tensor([1.0])]])
        fake = output(features=[[torch.tensor([1.0, -2.0])], [torch.tensor([2.0]), torch.tensor([4.0])]])
        assert float(FeatureLoss()(real, fake)["fm"]) == pytest.approx(2 * (0.5 + 2 + 3))
        assert float(FeatureLoss(factor=1, reduction="mean")(real, fake)["fm"]) == pytest.approx(5.5 / 3)
        normalized = NormalizedFeatureLoss()
        assert float(normalized(real, fake)["fm"]) == pytest.approx((0.25 + 0.5 + 3) / 3)
        assert float(normalized(real, real)["fm"]) == 0

    def test_features_of_a_dead_layer_stay_bounded(self) -> None:
        real, fake = output(features=[[torch.zeros(4)]]), output(features=[[torch.full((4,), 1e-6)]])
        assert float(NormalizedFeatureLoss()(real, fake)["fm"]) < 1

    @pytest.mark.parametrize("kind", [FeatureLoss, NormalizedFeatureLoss])
    def test_features_that_do_not_compare_are_refused(self, kind: type[nn.Module]) -> None:
        one, row = torch.ones(1, 2, 1), torch.ones(1, 2, 7)
        for real, fake in ([[[one]], [[row]]], [[[row, row]], [[row]]], [[], []], [[[row[..., :0]]]] * 2):
            with pytest.raises(ValueError, match="equal features"):
                kind()(output(features=real), output(features=fake))

    @pytest.mark.parametrize("kind", [FeatureLoss, NormalizedFeatureLoss])
    def test_real_features_take_no_gradient(self, kind: type[nn.Module]) -> None:
        a, b = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
        kind()(output(features=[[a]]), output(features=[[b]]))["fm"].backward()
        assert a.grad is None
        assert b.grad is not None

    def test_gradient_of_features_keeps_their_layout(self) -> None:
        torch.manual_seed(0)
        real, fake = (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last) for _ in range(2))
        fake.requires_grad_()
        found = []
        fake.register_hook(found.append)
        FeatureLoss(factor=1)(output(features=[[real]]), output(features=[[fake]]))["fm"].backward()
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found[0], (fake - real).sign() / fake.numel())

    def test_features_do_not_depend_on_scale_when_normalized(self) -> None:
        torch.manual_seed(0)
        a, b = torch.randn(50), torch.randn(50)
        values = [
            NormalizedFeatureLoss()(output(features=[[s * a]]), output(features=[[s * b]]))["fm"]
            for s in (1.0, 100.0)
        ]
        torch.testing.assert_close(*values)


class TestBalancer:
    weights: ClassVar = {"a": 1.0, "b": 3.0}

    def losses(self, x: Tensor, step: int) -> dict[str, Tensor]:
        return {"a": (x * (step + 1)).square().mean(), "b": 1000 * (x - 0.1).abs().mean()}

    def test_follows_the_published_rule(self) -> None:
        torch.manual_seed(0)
        balancer = GradientBalancer(self.weights, total_norm=2.0, decay=0.9)
        sums, counts = {"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}
        for step in range(4):
            x = audio(3, 1, 50).requires_grad_()
            gradients = {n: torch.autograd.grad(v, x)[0] for n, v in self.losses(x, step).items()}
            expected = torch.zeros_like(x)
            for name, gradient in gradients.items():
                sums[name] = 0.9 * sums[name] + float(gradient.flatten(1).norm(dim=1).mean())
                counts[name] = 0.9 * counts[name] + 1
                expected += 2.0 * self.weights[name] / 4.0 * gradient / (sums[name] / counts[name])
            balancer(self.losses(x, step), x).backward()
            torch.testing.assert_close(x.grad, expected)
            share = sums["a"] / counts["a"] / sum(sums[n] / counts[n] for n in sums)
            assert float(balancer.metrics["ratio_a"]) == pytest.approx(share)

    def test_scale_of_a_loss_does_not_matter(self) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50)
        gradients = []
        for scale in (1.0, 1e4):
            y = x.clone().requires_grad_()
            losses = self.losses(y, 0)
            GradientBalancer(self.weights)({"a": scale * losses["a"], "b": losses["b"]}, y).backward()
            gradients.append(y.grad)
        torch.testing.assert_close(*gradients)

    def test_one_backward_reaches_the_network(self) -> None:
        torch.manual_seed(0)
        network = nn.Conv1d(1, 1, 3, padding=1)
        passes = []
        network.weight.register_hook(passes.append)
        y = network(audio(2, 1, 50))
        surrogate = GradientBalancer(self.weights)(self.losses(y, 0), y)
        assert not passes
        (surrogate + network.weight.square().sum()).backward()
        assert len(passes) == 1

    def test_a_thinned_balancer_keeps_its_factors(self) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50)

        def gradient(balancer: GradientBalancer, step: int) -> Tensor:
            y = x.clone().requires_grad_()
            balancer(self.losses(y, step), y).backward()
            assert y.grad is not None
            return y.grad

        thin = GradientBalancer(self.weights, every=2)
        first, counts = gradient(thin, 0), thin.counts.clone()
        torch.testing.assert_close(gradient(thin, 0), first)
        assert torch.equal(thin.counts, counts)
        gradient(thin, 1)
        assert not torch.equal(thin.counts, counts)

    def test_a_late_loss_is_measured_at_once(self) -> None:
        torch.manual_seed(0)
        balancer = GradientBalancer(self.weights, every=100)
        x = audio(2, 1, 50).requires_grad_()
        balancer({"b": self.losses(x, 0)["b"]}, x).backward()
        assert balancer.counts.tolist() == [0, 1]
        balancer(self.losses(x, 0), x)
        assert (balancer.counts > 0).all()

    def test_value_is_the_weighted_sum(self) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50).requires_grad_()
        measuring, thin = GradientBalancer(self.weights), GradientBalancer(self.weights, every=2)
        thin(self.losses(x, 0), x)
        torch.testing.assert_close(measuring(self.losses(x, 0), x), thin(self.losses(x, 0), x))

    def test_losses_without_weight_are_ignored(self) -> None:
        x = audio(2, 1, 50).requires_grad_()
        balancer = GradientBalancer({"a": 1.0, "b": 0.0})
        losses = self.losses(x, 0)
        value = balancer(losses | {"c": x.sum()}, x)
        alone = GradientBalancer({"a": 1.0})({"a": self.losses(x, 0)["a"]}, x)
        torch.testing.assert_close(value, alone)
        assert float(balancer({"b": losses["b"]}, x)) == 0

    def test_an_exploded_batch_leaves_no_trace(self) -> None:
        torch.manual_seed(0)
        balancer = GradientBalancer(self.weights)
        x = audio(2, 1, 50).requires_grad_()
        balancer(self.losses(x, 0), x)
        before = balancer.sums.clone()
        balancer({"a": x.sum() * torch.nan, "b": x.sum() * torch.inf}, x).backward()
        assert x.grad is not None
        assert not x.grad.isfinite().any()
        assert torch.equal(balancer.sums, before)

    def test_resumes_exactly(self) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50).requires_grad_()
        one, two = GradientBalancer(self.weights, every=3), GradientBalancer(self.weights, every=3)
        for step in range(4):
            one(self.losses(x, step), x)
        two.load_state_dict(one.state_dict())
        for step in range(4):
            assert torch.equal(one(self.losses(x, step), x), two(self.losses(x, step), x))

    def test_ranks_share_their_norms(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50).requires_grad_()
        alone, together = GradientBalancer(self.weights), GradientBalancer(self.weights)
        alone(self.losses(x, 0), x)
        # a second rank whose norms are three times as large: the mean is twice our own
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda norms: norms.mul_(4))
        together(self.losses(x, 0), x)
        torch.testing.assert_close(together.sums, 2 * alone.sums)

    def test_half_precision_audio(self) -> None:
        torch.manual_seed(0)
        x = audio(2, 1, 50).requires_grad_()
        y = x.bfloat16()
        balancer = GradientBalancer(self.weights)
        balancer(self.losses(y.float(), 0), y).backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert balancer.sums.dtype == torch.float64

    @pytest.mark.parametrize("wrong", [{"weights": {"a": -1.0}}, {"decay": 1.5}, {"every": 0}])
    def test_refuses(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"negative|out of range"):
            GradientBalancer(**{"weights": {"a": 1.0}} | wrong)  # type: ignore[arg-type]
