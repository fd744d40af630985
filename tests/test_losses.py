"""Losses: zero at the target, gradients, parity with independent forms, the composite."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from codec.losses import (
    ComplexSTFTLoss,
    LogMelLoss,
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
    "complex_stft": lambda: ComplexSTFTLoss(16000, windows=(256, 128)),
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
    mel = pytest.importorskip("torchaudio").transforms.MelSpectrogram(
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
            mel = pytest.importorskip("torchaudio").transforms.MelSpectrogram(
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
        terms = ComplexSTFTLoss(16000, windows=(256,), compression=1.0)(a, b)
        torch.testing.assert_close(
            terms["complex"], (torch.view_as_real(x) - torch.view_as_real(y)).abs().mean()
        )
        torch.testing.assert_close(terms["mag"], (x.abs() - y.abs()).abs().mean(), rtol=1e-3, atol=1e-4)

    def test_complex_term_hears_the_phase(self) -> None:
        torch.manual_seed(0)
        x = audio(1, 1, 2000)
        terms = ComplexSTFTLoss(16000, windows=(256,))(-x, x)
        assert terms["mag"] == 0
        assert terms["complex"] > 0.5

    def test_a_band_leaves_the_phase_above_it_alone(self) -> None:
        time = torch.arange(4000) / 16000
        fades = torch.hann_window(4000)  # a click at the ends would be in all bins
        low, high = ((fades * torch.sin(2 * torch.pi * f * time)).view(1, 1, -1) for f in (500.0, 4000.0))
        banded, whole = (
            ComplexSTFTLoss(16000, windows=(512,), band=(1500, 3000)),
            ComplexSTFTLoss(16000, windows=(512,)),
        )
        assert banded(low - high, low + high)["complex"] < 0.05 * whole(low - high, low + high)["complex"]
        torch.testing.assert_close(
            banded(-low, low)["complex"], whole(-low, low)["complex"], rtol=0.1, atol=0
        )
        assert banded(low, low + high)["mag"] == whole(low, low + high)["mag"]
        with pytest.raises(ValueError, match="ascend"):
            ComplexSTFTLoss(16000, band=(3000, 1500))


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
