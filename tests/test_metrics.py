"""Metrics against the packages of the field, against torchaudio, and where they cannot say anything."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from codec import assets, audio, metrics
from codec.errors import ConfigError
from codec.metrics import Unscorable, codebook_statistics, count, stability
from codec.metrics.perceptual import pesq, stoi
from codec.metrics.pitch import f0_error, track, voicing_agreement
from codec.metrics.signal import si_sdr, snr
from codec.metrics.spectral import MEL_BANDS, MEL_WINDOWS, log_spectral_distance, mel_distance, stft_distance

DATA = Path(__file__).parent / "data"
RATE = 16000
CLIPS = sorted(DATA.glob("librispeech_*.flac"))[:10]


def pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A noisy version of two seconds of a clip, and these two seconds."""
    clean = audio.read(path, 16000, 28000)[0][0]
    noise = np.random.default_rng(len(path.name)).standard_normal(clean.size).astype(np.float32)
    return 0.8 * clean + 0.02 * noise, clean


def test_equal_to_the_reference_packages_on_ten_clips() -> None:
    package, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
    functional = pytest.importorskip("torchmetrics.functional.audio")
    assert len(CLIPS) == 10
    for path in CLIPS:
        noisy, clean = pair(path)
        assert pesq(noisy, clean, RATE) == pytest.approx(package.pesq(RATE, clean, noisy, "wb"), abs=1e-3)
        assert stoi(noisy, clean, RATE) == pytest.approx(pystoi.stoi(clean, noisy, RATE), abs=1e-3)
        tensors = torch.from_numpy(noisy), torch.from_numpy(clean)
        theirs = functional.scale_invariant_signal_distortion_ratio(*tensors)
        assert si_sdr(noisy, clean) == pytest.approx(theirs.item(), abs=1e-3)
        assert snr(noisy, clean) == pytest.approx(functional.signal_noise_ratio(*tensors).item(), abs=1e-3)


def test_mel_distance_equals_torchaudio() -> None:
    MelSpectrogram = pytest.importorskip("torchaudio").transforms.MelSpectrogram

    noisy, clean = pair(CLIPS[0])
    total = 0.0
    for window, bands in zip(MEL_WINDOWS, MEL_BANDS, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="At least one mel filterbank")
            transform = MelSpectrogram(
                RATE, window, hop_length=window // 4, n_mels=bands, power=1, norm="slaney", mel_scale="slaney"
            )
        logs = [transform(torch.from_numpy(x)).clamp_min(1e-5).log10() for x in (noisy, clean)]
        total += (logs[0] - logs[1]).abs().mean().item()
    assert mel_distance(noisy, clean, RATE) == pytest.approx(total / len(MEL_WINDOWS), abs=1e-4)


@pytest.mark.parametrize("name", [name for name in metrics.METRICS if name not in metrics.SLOW])
def test_a_copy_scores_best_and_more_noise_scores_worse(name: str) -> None:
    metric = metrics.get(name)
    if metric.missing():
        pytest.skip(str(metric.missing()))
    _, clean = pair(CLIPS[1])
    noise = np.random.default_rng(0).standard_normal(clean.size).astype(np.float32)
    scores = [metric(clean + level * noise, clean, RATE) for level in (0.0, 0.001, 0.01)]
    assert all(metric.low - 1e-6 <= score <= metric.high for score in scores)
    best, some, much = scores if metric.higher_is_better else [-score for score in scores]
    assert best >= some > much or (name == "f0_error" and best >= max(some, much))


def test_silence_is_unscorable_with_a_reason() -> None:
    silence = np.zeros(RATE, np.float32)
    for name in metrics.METRICS:
        metric = metrics.get(name)
        if not metric.missing():
            with pytest.raises(Unscorable, match="silent"):
                metric(silence, silence, RATE)


def test_short_clips_are_unscorable_not_fatal() -> None:
    pytest.importorskip("pystoi")
    tone = np.sin(np.arange(1600, dtype=np.float32))
    for part in (tone, tone[:100]):
        with pytest.raises(Unscorable, match=r"0\.4 s"):
            stoi(part, part, RATE)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="must both be"):
        mel_distance(np.ones(100, np.float32), np.ones(101, np.float32), RATE)


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codec.metrics.base.find_spec", lambda name: None)
    assert assets.install("eval") in str(metrics.get("pesq_wb").missing())
    assert metrics.get("si_sdr").missing() is None
    with pytest.raises(ConfigError, match="there is no metric"):
        metrics.get("pesk")


def test_a_gain_of_two_is_six_decibel() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE).astype(np.float32)
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(RATE).astype(np.float32)
    assert log_spectral_distance(2 * noise, noise, RATE) == pytest.approx(20 * np.log10(2), abs=0.05)
    assert si_sdr(2 * tone, tone) == pytest.approx(120, abs=1)
    assert snr(2 * tone, tone) == pytest.approx(0, abs=1e-4)
    assert stft_distance(2 * noise, noise) == pytest.approx(1 + np.log(2), abs=1e-3)


def test_pitch_of_a_known_tone() -> None:
    pytest.importorskip("parselmouth")
    time = np.arange(RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 8)).astype(np.float32)
    found = track(buzz, RATE)[5:-5]
    assert np.abs(found - 150).max() < 0.5
    sharp = sum(np.sin(2 * np.pi * 159 * k * time) / k for k in range(1, 8)).astype(np.float32)
    assert f0_error(sharp, buzz, RATE) == pytest.approx(1200 * np.log2(159 / 150), abs=5)
    half = np.where(time < 0.5, buzz, 0).astype(np.float32)
    assert voicing_agreement(half, buzz, RATE) == pytest.approx(0.5, abs=0.05)
    assert (track(np.random.default_rng(0).standard_normal(RATE).astype(np.float32), RATE) == 0).all()


def test_pitch_of_speech_has_no_octave_errors_after_a_light_coding() -> None:
    pytest.importorskip("parselmouth")
    speech, rate = audio.read(DATA / "librispeech_4680.flac", frames=6 * RATE)
    noise = 0.001 * np.random.default_rng(0).standard_normal(speech.shape[1]).astype(np.float32)
    assert rate == RATE
    assert f0_error(speech[0] + noise, speech[0], RATE) < 30  # one octave in a hundred frames would be 120
    assert track(speech[0, :100], RATE).size == 0


def test_statistics_of_tokens() -> None:
    even = codebook_statistics(count(np.arange(8)[None], [16])[0])
    assert (even.used, even.usage, even.entropy, even.perplexity) == (8, 0.5, 3.0, 8.0)
    one = codebook_statistics(count(np.zeros((1, 5), np.int64), [4])[0])
    assert (one.used, one.entropy, one.perplexity) == (1, 0.0, 1.0)
    assert stability(np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 0]])) == 0.75
    with pytest.raises(ValueError, match="outside"):
        count(np.array([[4]]), [4])


def test_the_documentation_names_every_metric_with_range_and_direction() -> None:
    text = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    for name, metric in metrics.METRICS.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        _, _, what, limits, better, source, _ = (cell.strip() for cell in row.split("|"))
        assert what == metric.title + (f" ({metric.unit})" if metric.unit else "")
        assert limits == f"{metric.low:g} to {metric.high:g}".replace("inf", "∞")
        assert better == ("more" if metric.higher_is_better else "less")
        assert source == metric.source
