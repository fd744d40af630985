"""Mel filters: published values, and those of torchaudio where it is installed."""

from __future__ import annotations

import pytest
import torch

from codec.nn.spectrogram import mel_filters

SHAPES = [(16000, 1024, 80, 0.0, None), (44100, 2048, 128, 0.0, None), (24000, 512, 64, 20.0, 7600.0)]


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@pytest.mark.parametrize("scale", ["slaney", "htk"])
@pytest.mark.parametrize(("rate", "n_fft", "bands", "low", "high"), [*SHAPES, (16000, 32, 320, 0.0, 8000.0)])
def test_filters_are_those_of_torchaudio(rate, n_fft, bands, low, high, scale):
    functional = pytest.importorskip("torchaudio").functional
    norm = "slaney" if scale == "slaney" else None
    theirs = functional.melscale_fbanks(
        n_fft // 2 + 1, low, high or rate / 2, bands, rate, norm=norm, mel_scale=scale
    )
    ours = mel_filters(rate, n_fft, bands, low=low, high=high, scale=scale)
    assert ours.dtype == torch.float32
    # theirs are computed in float32 throughout
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-5 * float(theirs.max()))


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_filters_peak_where_the_scale_says(scale):
    # 1000 Hz is mel 15 of Slaney's scale and mel 1000 of HTK's: with one band up to twice that mel, it is the peak
    high = {"slaney": 1000 * 6.4 ** (15 / 27), "htk": 700 * ((1 + 1000 / 700) ** 2 - 1)}[scale]
    filters = mel_filters(16000, 16000, 1, high=high, scale=scale)[:, 0]  # one bin a hertz
    assert int(filters.argmax()) == 1000
    assert filters.max() == pytest.approx(1.0 if scale == "htk" else 2 / high, rel=1e-3)


def test_slaney_filters_have_equal_area():
    filters = mel_filters(16000, 16000, 20, scale="slaney")
    torch.testing.assert_close(filters.sum(0), torch.ones(20), rtol=1e-3, atol=0)
