"""Every convolutional family: exact lengths, exact streams, causality, receptive fields, gradients."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codec.errors import ConfigError
from codec.models.convnet_dac import DACDecoder, DACEncoder
from codec.models.convnet_hificodec import HiFiCodecDecoder, HiFiCodecEncoder
from codec.models.convnet_mimi import MimiDecoder, MimiEncoder
from codec.models.convnet_seanet import SEANetDecoder, SEANetEncoder
from codec.models.vocos import VocosDecoder
from codec.nn.state import StreamState
from tests.conftest import in_blocks


class BigCodecEncoder(DACEncoder):
    """DAC's encoder in BigCodec's way, hearing two thirds of the sample rate as NeuCodec's does."""

    def __init__(self, dim, *, rates, width):
        super().__init__(dim, rates=(4, 2), width=width, alias_free=True, resample=(2, 3))


SEANET = {"ratios": (4, 3, 2), "width": 4}
SOUNDSTREAM = {
    "residual_layers": 3,
    "dilation_base": 3,
    "residual_kernel": 7,
    "compress": 1,
    "true_skip": True,
}
MIMI = {"ratios": (3, 2), "width": 4, "layers": 2, "heads": 2, "window": 5}
HIFI = {"rates": (3, 2), "kernels": (7, 4), "branch_kernels": (3, 5)}
VOCOS = {"hop": 6, "window": 24, "width": 8, "hidden": 16, "layers": 2}
GRAZE = VOCOS | {"layers": 1, "residuals": 1, "attention": 2, "heads": 2, "reach": 5}
PAIRS = {
    "seanet": (SEANetEncoder, SEANetDecoder, SEANET),
    "seanet_mirror": (SEANetEncoder, SEANetDecoder, SEANET | {"pad": "mirror"}),
    "soundstream": (SEANetEncoder, SEANetDecoder, SEANET | SOUNDSTREAM | {"lstm": 0}),
    "dac": (DACEncoder, DACDecoder, {"rates": (4, 3), "width": 8, "causal": True}),
    "mimi": (MimiEncoder, MimiDecoder, MIMI),
    "hificodec": (HiFiCodecEncoder, HiFiCodecDecoder, HIFI | {"width": 8, "causal": True}),
    "vocos": (None, VocosDecoder, VOCOS | {"causal": True}),
    "vocos_attention": (None, VocosDecoder, GRAZE | {"causal": True}),
}
AHEAD = {
    "seanet": (SEANetEncoder, SEANetDecoder, SEANET | {"causal": False}),
    "seanet_mirror": (SEANetEncoder, SEANetDecoder, SEANET | {"causal": False, "pad": "mirror"}),
    "seanet_time": (
        SEANetEncoder,
        SEANetDecoder,
        SEANET | {"causal": False, "pad": "mirror", "norm": "time"},
    ),
    "dac": (DACEncoder, DACDecoder, {"rates": (4, 3), "width": 8, "causal": False}),
    "hificodec": (HiFiCodecEncoder, HiFiCodecDecoder, HIFI | {"width": 8}),
    "bigcodec": (BigCodecEncoder, DACDecoder, {"rates": (4, 3), "width": 8}),
    "vocos": (None, VocosDecoder, VOCOS),
    "vocos_attention": (None, VocosDecoder, GRAZE),
}
_built = {}
DIM = 8


def pair(table, name):
    """An encoder and a decoder, made once."""
    key = (id(table), name)
    if key not in _built:
        torch.manual_seed(0)
        encoder, decoder, settings_ = table[name]
        # a decoder without an encoder of its own gets one of the same hop
        first = (
            DACEncoder(DIM, rates=(3, 2), width=4, causal=True)
            if encoder is None
            else encoder(DIM, **settings_)
        )
        _built[key] = (first.eval(), decoder(DIM, **settings_).eval())
    return _built[key]


def streamed(module, x, cuts):
    state = StreamState(module, x.shape[0])
    parts = [module(x[..., a:b], state) for a, b in zip([0, *cuts], cuts, strict=False)]
    state.last = True
    parts.append(module(x[..., cuts[-1] if cuts else 0 :], state))
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=15, deadline=None)
@given(frames=st.integers(1, 24), cuts=st.lists(st.integers(0, 24), max_size=5), batch=st.integers(1, 2))
@torch.no_grad()
def test_any_chunking_of_a_causal_pair_is_the_whole(name, frames, cuts, batch):
    encoder, decoder = pair(PAIRS, name)
    hop = encoder.hop
    audio = torch.randn(batch, 1, frames * hop)
    cuts = sorted(min(cut, frames) for cut in cuts)
    latent = encoder(audio)
    assert latent.shape == (batch, DIM, frames)
    assert torch.equal(streamed(encoder, audio, [cut * hop for cut in cuts]), latent)
    sound = decoder(latent)
    assert sound.shape == audio.shape
    assert torch.equal(streamed(decoder, latent, cuts), sound)
    # nor does a row depend on the other rows
    assert torch.equal(encoder(audio[:1]), latent[:1])
    assert torch.equal(decoder(latent[:1]), sound[:1])


@pytest.mark.parametrize("name", AHEAD)
@settings(max_examples=8, deadline=None)
@given(frames=st.integers(1, 40), size=st.integers(1, 40))
@example(frames=9, size=1)
@example(frames=20, size=5)
@torch.no_grad()
def test_blocks_of_a_pair_that_looks_ahead_are_the_whole(name, frames, size):
    encoder, decoder = pair(AHEAD, name)
    audio = torch.randn(1, 1, frames * encoder.hop)
    latent = encoder(audio)
    assert latent.shape == (1, DIM, frames)
    parts = in_blocks(encoder, lambda: audio.split(size * encoder.hop, dim=-1))
    assert torch.equal(torch.cat(list(parts), -1), latent)
    sound = decoder(latent)
    assert sound.shape == audio.shape
    parts = in_blocks(decoder, lambda: latent.split(size, dim=-1))
    assert torch.equal(torch.cat(list(parts), -1), sound)


@pytest.mark.parametrize("name", PAIRS)
@torch.no_grad()
def test_no_causal_encoder_hears_the_future(name):
    encoder, decoder = pair(PAIRS, name)
    hop = encoder.hop
    audio = torch.randn(1, 1, 40 * hop)
    latent = encoder(audio)
    audio[..., 30 * hop :] = 0
    assert torch.equal(encoder(audio)[..., :30], latent[..., :30])
    sound = decoder(latent)
    latent[..., 30:] = 0
    assert torch.equal(decoder(latent)[..., : 30 * hop], sound[..., : 30 * hop])
    assert encoder.receptive_field().ahead == 0
    assert decoder.receptive_field().ahead == -(-decoder.delay // hop)


FIELDS = [
    (PAIRS, "soundstream"),
    (PAIRS, "mimi"),
    (AHEAD, "dac"),
    (AHEAD, "vocos"),
    (AHEAD, "vocos_attention"),
]


@pytest.mark.parametrize(("table", "name"), FIELDS)
def test_receptive_fields_are_what_gradients_show(table, name):
    frame, hop = 60, pair(table, name)[0].hop
    parts, settings_ = table[name][:2], table[name][2]
    for cls, length, unit in zip(parts, (120 * hop, 120), (hop, 1), strict=True):
        if cls is None:
            continue
        net = cls(DIM, **settings_).double()
        x = torch.randn(1, 1 if unit == hop else DIM, length, dtype=torch.float64, requires_grad=True)
        y = net(x)
        part = y[..., frame] if unit == hop else y[..., frame * hop : (frame + 1) * hop]
        part.square().sum().backward()
        seen = x.grad.abs().sum((0, 1)).nonzero().flatten()
        field = net.receptive_field()
        assert (seen[0], seen[-1]) == (frame * unit - field.back, (frame + 1) * unit - 1 + field.ahead)


def test_an_lstm_remembers_without_bound():
    assert math.isinf(pair(PAIRS, "seanet")[0].receptive_field().back)


@pytest.mark.parametrize(("table", "name"), [*((PAIRS, n) for n in PAIRS), *((AHEAD, n) for n in AHEAD)])
def test_gradients_reach_every_weight_and_agree_with_inference(table, name):
    encoder, decoder = pair(table, name)
    audio = torch.randn(2, 1, 12 * encoder.hop)
    latent = encoder(audio)
    sound = decoder(latent)
    sound.square().sum().backward()
    for part in (encoder, decoder):
        for key, parameter in part.named_parameters():
            assert parameter.grad is not None, key
            # a norm over time takes away the mean of an only channel, and with it what its bias adds
            if parameter.numel() > 1 or name != "seanet_time":
                assert parameter.grad.abs().sum() > 0, key
        part.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(encoder(audio), latent.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoder(latent), sound.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["seanet", "mimi"])
@torch.no_grad()
def test_rows_of_a_batch_freeze_and_restart(name):
    """Streams of one batch that stand still or begin anew at different times are those streams alone."""
    encoder, _ = pair(PAIRS, name)
    hop = encoder.hop
    a, b, c = torch.randn(3, 1, 1, 9 * hop).unbind(0)
    state = StreamState(encoder, 2)
    first = encoder(torch.cat([a[..., : 3 * hop], b[..., : 3 * hop]]), state)
    state.active = torch.tensor([True, False])
    second = encoder(torch.cat([a[..., 3 * hop : 5 * hop], torch.randn(1, 1, 2 * hop)]), state)
    state.active = None
    state.reset(torch.tensor([True, False]))
    third = encoder(torch.cat([c[..., : 4 * hop], b[..., 3 * hop : 7 * hop]]), state)
    assert torch.equal(torch.cat([first[:1], second[:1]], -1), encoder(a[..., : 5 * hop]))
    assert torch.equal(torch.cat([first[1:], third[1:]], -1), encoder(b[..., : 7 * hop]))
    assert torch.equal(third[:1], encoder(c[..., : 4 * hop]))


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="needs causal: false"):
        SEANetEncoder(norm="time")
    with pytest.raises(ConfigError, match="there is no padding 'reflect'"):
        SEANetDecoder(pad="reflect")
    with pytest.raises(ConfigError, match="cannot be divided among 3 heads"):
        MimiEncoder(8, heads=3)
