"""Losses: zero at the target, gradients, parity with independent forms, the composite, the balancer."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from codec.losses import (
    ComplexSTFTLoss,
    FeatureLoss,
    GradientBalancer,
    HingeLoss,
    LeastSquaresLoss,
    LogMelLoss,
    NormalizedFeatureLoss,
    ReconstructionLoss,
    ReconstructionLosses,
    SISDRLoss,
    SoundStreamMelLoss,
    STFTLoss,
    WaveformLoss,
)
from codec.nn.spectrogram import STFT

KINDS: dict[str, Callable[[], ReconstructionLoss]] = {
    "log_mel": lambda: LogMelLoss(16000, windows=(256, 512), n_mels=(20, 40)),
    "log_mel_centered": lambda: LogMelLoss(16000, windows=(64,), n_mels=(8,), padding="center", base="10"),
    "soundstream_mel": lambda: SoundStreamMelLoss(16000, windows=(64, 256), n_mels=16),
    "stft": lambda: STFTLoss(n_ffts=(256, 128), hops=(60, 30), windows=(200, 100)),
    "complex_stft": lambda: ComplexSTFTLoss(windows=(256, 128)),
    "waveform": lambda: WaveformLoss(),
    "waveform_squared": lambda: WaveformLoss(power=2),
    "si_sdr": lambda: SISDRLoss(),
}


@pytest.fixture(params=KINDS)
def loss(request: pytest.FixtureRequest) -> ReconstructionLoss:
    torch.manual_seed(0)
    return KINDS[request.param]()


def audio(*shape: int) -> Tensor:
    return 0.3 * torch.randn(*shape)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


class TestEveryLoss:
    def test_names_its_terms(self, loss: ReconstructionLoss) -> None:
        terms = loss(audio(2, 1, 800), audio(2, 1, 800))
        assert tuple(terms) == loss.names
        assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())

    def test_best_at_the_target(self, loss: ReconstructionLoss) -> None:
        x = audio(2, 1, 800)
        best, worse, worst = (total(loss(x + noise * audio(2, 1, 800), x)) for noise in (0.0, 0.1, 1.0))
        assert best < worse < worst
        if not isinstance(loss, SISDRLoss):
            assert best == 0

    def test_gradient_reaches_the_estimate_only(self, loss: ReconstructionLoss) -> None:
        estimate, target = audio(2, 2, 800).requires_grad_(), audio(2, 2, 800).requires_grad_()
        for term in loss(estimate, target).values():
            (gradient,) = torch.autograd.grad(term, estimate, retain_graph=True)
            assert (gradient.abs().amax(dim=-1) > 0).all()
        total(loss(estimate, target)).backward()
        assert target.grad is None

    @pytest.mark.parametrize("against", ["silence", "noise", "itself"])
    def test_silence_and_perfection_have_finite_gradients(
        self, loss: ReconstructionLoss, against: str
    ) -> None:
        estimate = (audio(1, 1, 700) if against == "itself" else torch.zeros(1, 1, 700)).requires_grad_()
        target = {"silence": torch.zeros(1, 1, 700), "noise": audio(1, 1, 700), "itself": estimate.detach()}[
            against
        ]
        value = total(loss(estimate, target))
        value.backward()
        assert value.isfinite()
        assert estimate.grad is not None
        assert estimate.grad.isfinite().all()

    @pytest.mark.parametrize("length", [1, 2, 33, 500])
    def test_any_length(self, loss: ReconstructionLoss, length: int) -> None:
        assert total(loss(audio(1, 1, length), audio(1, 1, length))).isfinite()

    def test_damage_shows(self, loss: ReconstructionLoss) -> None:
        estimate = audio(1, 1, 700)
        estimate[..., 350] = torch.nan
        assert not total(loss(estimate, audio(1, 1, 700))).isfinite()

    def test_precision_around_does_not_matter(self, loss: ReconstructionLoss) -> None:
        estimate, target = audio(1, 1, 700).bfloat16(), audio(1, 1, 700)
        with torch.autocast("cpu", torch.bfloat16):
            rough = loss(estimate, target)
        for name, value in loss(estimate.float(), target).items():
            assert torch.equal(rough[name], value)

    def test_stereo_is_two_clips(self, loss: ReconstructionLoss) -> None:
        estimate, target = audio(1, 2, 700), audio(1, 2, 700)
        apart = loss(estimate.transpose(0, 1), target.transpose(0, 1))
        for name, value in loss(estimate, target).items():
            torch.testing.assert_close(value, apart[name])

    def test_shapes_must_agree(self, loss: ReconstructionLoss) -> None:
        with pytest.raises(ValueError, match="differ in shape"):
            loss(audio(1, 1, 700), audio(1, 1, 699))


def log_mel(x: Tensor, rate: int, n_fft: int, hop: int, n_mels: int, center: bool) -> Tensor:
    """Mel magnitudes by torchaudio's own transform."""
    if not center:
        x = F.pad(x, ((n_fft - hop) // 2,) * 2, mode="reflect")
    mel = torchaudio.transforms.MelSpectrogram(
        rate, n_fft, hop_length=hop, n_mels=n_mels, power=1, center=center, norm="slaney", mel_scale="slaney"
    )
    return mel(x).clamp(min=1e-5)


class TestMel:
    def test_hifigan_form(self) -> None:
        torch.manual_seed(0)
        a, b = audio(2, 1, 4800), audio(2, 1, 4800)
        found = LogMelLoss(24000, hops=(240,))(a, b)["mel"]
        expected = F.l1_loss(*(log_mel(x, 24000, 1024, 240, 80, False).log() for x in (a, b)))
        torch.testing.assert_close(found, expected)

    def test_dac_form(self) -> None:
        torch.manual_seed(0)
        a, b = audio(2, 1, 4000), audio(2, 1, 4000)
        loss = LogMelLoss(16000, windows=(32, 512), n_mels=(5, 80), base="10", padding="center")
        expected = sum(
            F.l1_loss(*(log_mel(x, 16000, n, n // 4, mels, True).log10() for x in (a, b)))
            for n, mels in ((32, 5), (512, 80))
        )
        torch.testing.assert_close(loss(a, b)["mel"], expected)

    def test_a_gain_counts_its_logarithm(self) -> None:
        torch.manual_seed(0)
        x = audio(1, 1, 8000)
        for base, expected in (("e", math.log(2)), ("10", math.log10(2))):
            loss = LogMelLoss(16000, windows=(512, 1024), n_mels=(20, 40), base=base)
            assert float(loss(2 * x, x)["mel"]) == pytest.approx(2 * expected, rel=1e-3)

    def test_lists_must_agree(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            LogMelLoss(16000, windows=(512, 1024), n_mels=(20,))

    def test_unknown_choices(self) -> None:
        for kind, wrong in (
            (LogMelLoss, {"base": 2}),
            (LogMelLoss, {"scale": "bark"}),
            (SoundStreamMelLoss, {"alpha": 0}),
        ):
            with pytest.raises(ValueError, match="neither"):
                kind(16000, **wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("alpha", "average"), [("sqrt", False), ("one", True)])
    def test_soundstream_form(self, alpha: str, average: bool) -> None:
        torch.manual_seed(0)
        a, b = audio(2, 1, 3000), audio(2, 1, 3000)
        expected = torch.zeros(())
        for s in (64, 1024):
            n_fft = max(512, s)
            mel = torchaudio.transforms.MelSpectrogram(
                16000, n_fft, win_length=s, hop_length=s // 4, n_mels=32, power=1, normalized=True
            )
            x, y = mel(a), mel(b)
            logs = ((x + 1e-5).log() - (y + 1e-5).log()).square().mean(dim=-2).sqrt().mean()
            expected = expected + (x - y).abs().mean() + (math.sqrt(s / 2) if alpha == "sqrt" else 1.0) * logs
        loss = SoundStreamMelLoss(16000, windows=(64, 1024), n_mels=32, alpha=alpha, average=average)
        torch.testing.assert_close(
            loss(a, b)["mel"], expected / 2 if average else expected, rtol=1e-4, atol=1e-4
        )


class TestSTFT:
    def test_parity_with_auraloss(self) -> None:
        reference = pytest.importorskip("auraloss").freq
        torch.manual_seed(0)
        a, b = audio(2, 1, 6000), audio(2, 1, 6000)
        terms = STFTLoss()(a, b)
        shapes = zip((1024, 2048, 512), (120, 240, 50), (600, 1200, 240), strict=True)
        theirs = [reference.STFTLoss(*shape, output="full")(a, b) for shape in shapes]
        torch.testing.assert_close(terms["sc"], torch.stack([t[1] for t in theirs]).mean())
        torch.testing.assert_close(terms["log_mag"], torch.stack([t[2] for t in theirs]).mean())

    def test_without_compression_spectra_are_compared_as_they_are(self) -> None:
        torch.manual_seed(0)
        a, b = audio(1, 1, 2000), audio(1, 1, 2000)
        window = torch.hann_window(256)
        x, y = (torch.stft(z[0], 256, 64, window=window, return_complex=True) / window.norm() for z in (a, b))
        terms = ComplexSTFTLoss(windows=(256,), compression=1.0)(a, b)
        torch.testing.assert_close(
            terms["complex"], (torch.view_as_real(x) - torch.view_as_real(y)).abs().mean()
        )
        torch.testing.assert_close(terms["mag"], (x.abs() - y.abs()).abs().mean(), rtol=1e-3, atol=1e-4)

    def test_complex_term_hears_the_phase(self) -> None:
        torch.manual_seed(0)
        x = audio(1, 1, 2000)
        terms = ComplexSTFTLoss(windows=(256,))(-x, x)
        assert terms["mag"] == 0
        assert terms["complex"] > 0.5


class TestTransform:
    @pytest.mark.parametrize("padding", ["none", "center"])
    @pytest.mark.parametrize(("n_fft", "hop", "window"), [(256, 64, 256), (256, 50, 200), (512, 100, 201)])
    def test_is_that_of_torch(self, n_fft: int, hop: int, window: int, padding: str) -> None:
        x = audio(2, 3, 1000)
        found = STFT(n_fft, hop, window, padding=padding)(x)  # type: ignore[arg-type]
        expected = torch.stft(
            x.view(6, -1),
            n_fft,
            hop,
            window,
            torch.hann_window(window),
            center=padding == "center",
            return_complex=True,
        )
        torch.testing.assert_close(
            found.view(6, *found.shape[2:]).transpose(1, 2), expected, atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize("length", [1, 63, 64, 65, 640])
    def test_same_padding_gives_whole_hops(self, length: int) -> None:
        frames = STFT(256, 64, padding="same")(audio(1, 1, length)).shape[2]
        # clips shorter than the reflection are filled up first
        assert frames == math.ceil(max(length, 160) / 64)

    @pytest.mark.parametrize("wrong", [{"hop": 0}, {"window": 300}, {"shape": "kaiser"}, {"padding": "zero"}])
    def test_refuses(self, wrong: dict[str, object]) -> None:
        with pytest.raises(ValueError, match=r"fit together|neither|not one of"):
            STFT(**{"n_fft": 256, "hop": 64} | wrong)  # type: ignore[arg-type]


class TestWaveform:
    def test_values(self) -> None:
        a, b = torch.tensor([[[1.0, -1.0, 0.5]]]), torch.tensor([[[0.0, 1.0, 0.5]]])
        assert float(WaveformLoss()(a, b)["wave"]) == 1.0
        assert float(WaveformLoss(power=2)(a, b)["wave"]) == pytest.approx(5 / 3)
        with pytest.raises(ValueError, match="1 or 2"):
            WaveformLoss(power=3)

    def test_si_sdr_is_the_best_projection(self) -> None:
        torch.manual_seed(0)
        target = audio(3, 2, 2000)
        estimate = 0.5 * target + 0.1 * audio(3, 2, 2000)
        ratios = []
        for e, t in zip(estimate.flatten(0, 1), target.flatten(0, 1), strict=True):
            # the least squares fit of the target and an offset to the estimate
            basis = torch.stack([t - t.mean(), torch.ones_like(t)], dim=1)
            scale, offset = torch.linalg.lstsq(basis, e[:, None]).solution[:, 0]
            wanted = scale * (t - t.mean())
            ratios.append(10 * (wanted.square().sum() / (e - offset - wanted).square().sum()).log10())
        torch.testing.assert_close(-SISDRLoss()(estimate, target)["si_sdr"], torch.stack(ratios).mean())

    def test_si_sdr_ignores_gain_and_offset(self) -> None:
        torch.manual_seed(0)
        target = audio(1, 1, 2000)
        estimate = target + 0.1 * audio(1, 1, 2000)
        found, moved = SISDRLoss()(estimate, target), SISDRLoss()(3 * estimate + 1, target)
        torch.testing.assert_close(moved, found, rtol=1e-3, atol=1e-3)


class TestComposite:
    def test_labels(self) -> None:
        losses = ReconstructionLosses(
            {"mel": KINDS["log_mel"](), "stft": KINDS["stft"](), "raw": WaveformLoss()}
        )
        assert losses.names == ("mel", "stft_sc", "stft_log_mag", "raw")
        a, b = audio(1, 1, 800), audio(1, 1, 800)
        terms = losses(a, b)
        assert tuple(terms) == losses.names
        assert torch.equal(terms["raw"], WaveformLoss()(a, b)["wave"])

    def test_equal_names_are_refused(self) -> None:
        with pytest.raises(ValueError, match="stft_sc"):
            ReconstructionLosses({"stft": STFTLoss(), "stft_sc": WaveformLoss()})

    def test_each_spectrum_is_computed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        forward = STFT.forward
        monkeypatch.setattr(STFT, "forward", lambda self, x: calls.append(self.key) or forward(self, x))
        mel = LogMelLoss(16000, windows=(256,), n_mels=(20,), padding="center")
        fine = LogMelLoss(16000, windows=(256,), n_mels=(40,), padding="center")
        other = LogMelLoss(16000, windows=(256,), n_mels=(20,), padding="same")
        a, b = audio(1, 1, 800), audio(1, 1, 800)
        terms = ReconstructionLosses({"mel": mel, "fine": fine, "other": other})(a, b)
        # once for the estimate and once for the target, of each of two transforms
        assert len(calls) == 4
        assert torch.equal(terms["fine"], fine(a, b)["mel"])


def judgement(*logits: list[float], features: list[list[Tensor]] | None = None) -> SimpleNamespace:
    return SimpleNamespace(logits=[torch.tensor(logit) for logit in logits], features=features or [])


class TestAdversarial:
    real, fake = judgement([2.0, 0.0], [0.5]), judgement([-2.0, 0.5], [1.5])

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
        real = judgement(features=[[torch.tensor([2.0, -2.0])], [torch.tensor([4.0]), torch.tensor([1.0])]])
        fake = judgement(features=[[torch.tensor([1.0, -2.0])], [torch.tensor([2.0]), torch.tensor([4.0])]])
        assert float(FeatureLoss()(real, fake)["fm"]) == pytest.approx(2 * (0.5 + 2 + 3))
        assert float(FeatureLoss(factor=1, reduction="mean")(real, fake)["fm"]) == pytest.approx(5.5 / 3)
        normalized = NormalizedFeatureLoss()
        assert float(normalized(real, fake)["fm"]) == pytest.approx((0.25 + 0.5 + 3) / 3)
        assert float(normalized(real, real)["fm"]) == 0

    def test_features_of_a_dead_layer_stay_bounded(self) -> None:
        real, fake = judgement(features=[[torch.zeros(4)]]), judgement(features=[[torch.full((4,), 1e-6)]])
        assert float(NormalizedFeatureLoss()(real, fake)["fm"]) < 1

    @pytest.mark.parametrize("kind", [FeatureLoss, NormalizedFeatureLoss])
    def test_real_features_take_no_gradient(self, kind: type[nn.Module]) -> None:
        a, b = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
        kind()(judgement(features=[[a]]), judgement(features=[[b]]))["fm"].backward()
        assert a.grad is None
        assert b.grad is not None

    def test_gradient_of_features_keeps_their_layout(self) -> None:
        torch.manual_seed(0)
        real, fake = (torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last) for _ in range(2))
        fake.requires_grad_()
        found = []
        fake.register_hook(found.append)
        FeatureLoss(factor=1)(judgement(features=[[real]]), judgement(features=[[fake]]))["fm"].backward()
        assert found[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found[0], (fake - real).sign() / fake.numel())

    def test_features_do_not_depend_on_scale_when_normalized(self) -> None:
        torch.manual_seed(0)
        a, b = torch.randn(50), torch.randn(50)
        values = [
            NormalizedFeatureLoss()(judgement(features=[[s * a]]), judgement(features=[[s * b]]))["fm"]
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
