"""HiFi-Codec's shapes, gradients and causal form."""

import itertools
import math

import pytest
import torch

from codec.errors import ConfigError
from codec.models.convnet_hificodec import HiFiCodecDecoder, HiFiCodecEncoder
from codec.nn.state import StreamState
from tests.conftest import in_blocks

SHAPES = [((8, 5, 3, 2), (16, 11, 7, 4)), ((8, 5, 4, 2), (16, 11, 8, 4))]


def tiny(cls, rates, kernels, **more):
    width = 4 if cls is HiFiCodecEncoder else 32
    return cls(24, rates=rates, kernels=kernels, width=width, **more).eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rates", "kernels"), SHAPES)
@torch.no_grad()
def test_lengths_are_exact_for_every_whole_number_of_frames(rates, kernels, causal):
    encoder = tiny(HiFiCodecEncoder, rates, kernels, causal=causal)
    decoder = tiny(HiFiCodecDecoder, rates, kernels, causal=causal)
    assert encoder.hop == decoder.hop == math.prod(rates)
    for frames in (1, 2, 9):
        latent = encoder(torch.randn(2, 1, frames * encoder.hop))
        assert latent.shape == (2, 24, frames)
        audio = decoder(latent)
        assert audio.shape == (2, 1, frames * encoder.hop)
        assert audio.abs().max() <= 1


def test_published_sizes():
    """Parameters counted from the published layer shapes, weight norm's gains included."""
    encoder, decoder = HiFiCodecEncoder(), HiFiCodecDecoder()
    assert sum(p.numel() for p in encoder.parameters()) == 47_220_768
    assert sum(p.numel() for p in decoder.parameters()) == 15_345_154


@torch.no_grad()
def test_causal_form_streams_exactly():
    rates, kernels = SHAPES[0]
    encoder = tiny(HiFiCodecEncoder, rates, kernels, causal=True)
    decoder = tiny(HiFiCodecDecoder, rates, kernels, causal=True)
    audio = torch.randn(2, 1, 12 * 240)
    cuts = [0, 240, 240, 5 * 240, 11 * 240, 12 * 240]
    state = StreamState(encoder, 2)
    parts = [encoder(audio[..., a:b], state) for a, b in itertools.pairwise(cuts)]
    whole = encoder(audio)
    assert torch.equal(torch.cat(parts, -1), whole)
    state = StreamState(decoder, 2)
    parts = [decoder(whole[..., a // 240 : b // 240], state) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(parts, -1), decoder(whole))


@torch.no_grad()
def test_published_form_in_blocks_gives_the_frames_of_the_whole_signal():
    rates, kernels = SHAPES[0]
    encoder = tiny(HiFiCodecEncoder, rates, kernels)
    decoder = tiny(HiFiCodecDecoder, rates, kernels)
    audio = torch.randn(1, 1, 40 * 240)
    whole = encoder(audio)
    parts = list(in_blocks(encoder, lambda: audio.split(13 * 240, dim=-1)))
    assert torch.equal(torch.cat(parts, -1), whole)
    parts = list(in_blocks(decoder, lambda: whole.split(13, dim=-1)))
    assert torch.equal(torch.cat(parts, -1), decoder(whole))


def test_receptive_field_of_the_published_form():
    """The norms over time see everything; the decoder's convolutions alone are what a gradient shows."""
    rates, kernels = SHAPES[0]
    field = tiny(HiFiCodecEncoder, rates, kernels).receptive_field()
    assert (field.back, field.ahead) == (math.inf, math.inf)
    assert tiny(HiFiCodecEncoder, rates, kernels, causal=True).receptive_field().ahead == 0
    decoder = tiny(HiFiCodecDecoder, rates, kernels).double()
    field = decoder.receptive_field()
    frame, latent = 40, torch.randn(1, 24, 80, dtype=torch.float64, requires_grad=True)
    decoder(latent)[..., frame * 240 : (frame + 1) * 240].sum().backward()
    seen = latent.grad.abs().sum((0, 1)).nonzero().flatten()
    assert (frame - seen[0], seen[-1] - frame) == (field.back, field.ahead)


def test_causal_form_ignores_the_future():
    rates, kernels = SHAPES[1]
    encoder = tiny(HiFiCodecEncoder, rates, kernels, causal=True)
    audio = torch.randn(1, 1, 320 * 6, requires_grad=True)
    encoder(audio)[..., 3].sum().backward()
    assert audio.grad is not None
    assert audio.grad[..., : 4 * 320].abs().sum() > 0
    assert audio.grad[..., 4 * 320 :].abs().sum() == 0


def test_gradients_reach_every_weight():
    rates, kernels = SHAPES[0]
    encoder, decoder = tiny(HiFiCodecEncoder, rates, kernels), tiny(HiFiCodecDecoder, rates, kernels)
    decoder(encoder(torch.randn(1, 1, 2400))).square().sum().backward()
    for part in (encoder, decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_rates_and_kernels_must_fit():
    with pytest.raises(ConfigError, match="4 rates need as many kernels"):
        HiFiCodecEncoder(rates=(8, 5, 4, 2), kernels=(16, 10, 8))
    with pytest.raises(ConfigError, match="leaves holes"):
        HiFiCodecDecoder(rates=(8, 5, 4, 2), kernels=(7, 10, 8, 4))
