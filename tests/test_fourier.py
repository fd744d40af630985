"""The Fourier family: before any training it is a transform codec, and the decoder lags by what it says."""

from __future__ import annotations

import pytest
import soundfile
import torch
from torch import Tensor

from codec.errors import ConfigError
from codec.models.fourier import FourierDecoder, FourierEncoder
from tests.conftest import SPEECH

STAGES = [{"dim": 16, "hidden": 16, "depth": 1}, {"dim": 16, "hidden": 16, "depth": 1, "stride": 2}]


def speech() -> Tensor:
    audio, _ = soundfile.read(SPEECH, dtype="float32", frames=96000)
    return torch.from_numpy(audio)[None, None]


def snr(estimate: Tensor, target: Tensor) -> float:
    return float(10 * torch.log10(target.square().sum() / (estimate - target).square().sum()))


def pair(dim: int, **settings: int) -> tuple[FourierEncoder, FourierDecoder]:
    torch.manual_seed(0)
    encoder = FourierEncoder(dim, STAGES, **settings)
    return encoder, FourierDecoder(dim, STAGES[::-1], **settings)


@pytest.mark.parametrize(("dim", "least"), [(64, 8.0), (256, 18.0)])
def test_starting_from_data_gives_a_transform_codec(dim: int, least: float) -> None:
    encoder, decoder = pair(dim)
    audio = speech()
    encoder.initialise(audio, decoder)
    with torch.no_grad():
        z = encoder(audio)
        out = decoder(z)
    assert abs(float(z.square().mean()) - 1) < 0.1
    assert snr(out[..., decoder.delay :], audio[..., : -decoder.delay]) > least


def test_without_a_start_there_is_no_such_codec() -> None:
    encoder, decoder = pair(64)
    audio = speech()
    with torch.no_grad():
        out = decoder(encoder(audio))
    assert snr(out[..., decoder.delay :], audio[..., : -decoder.delay]) < 1


def test_stereo_and_other_frames() -> None:
    encoder, decoder = pair(32, channels=2, frame=80, window=320)
    audio = torch.randn(2, 2, 1600)
    assert encoder.hop == decoder.hop == 160
    assert decoder(encoder(audio)).shape == (2, 2, 1600)
    with pytest.raises(ConfigError, match="not a multiple"):
        pair(32, frame=100, window=320)


def test_nothing_in_gives_nothing_out() -> None:
    encoder, decoder = pair(16)
    assert encoder(torch.zeros(2, 1, 0)).shape == (2, 16, 0)
    assert decoder(torch.zeros(2, 16, 0)).shape == (2, 1, 0)


def test_the_encoder_never_looks_ahead() -> None:
    encoder, _ = pair(16)
    torch.nn.init.normal_(encoder.project.weight)
    audio = speech()[..., :16000].clone().requires_grad_()
    encoder(audio)[..., 20].sum().backward()
    assert audio.grad is not None
    assert float(audio.grad[..., 21 * 320 :].abs().max()) == 0
    assert float(audio.grad[..., 20 * 320 : 21 * 320].abs().max()) > 0
