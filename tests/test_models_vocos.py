"""The Vocos family: inverse transforms, conditions, attention that looks ahead, filters, and the start from data."""

import pytest
import torch

from codec import StreamDecoder, checkpoint
from codec.build import build
from codec.errors import ConfigError
from codec.models.convnet_dac import DACEncoder
from codec.models.convnet_mimi import MimiEncoder
from codec.models.convnet_seanet import SEANetEncoder
from codec.models.vocos import VocosDecoder
from codec.nn.istft import InverseSTFT
from codec.nn.resample import Resample
from codec.nn.start import normalize_convolutions
from codec.nn.transformer import Attention

MODEL = {
    "model": {
        "sample_rate": 8000,
        "channels": 1,
        "encoder": {"name": "seanet_encoder", "dim": 12, "ratios": [4, 2], "width": 4, "lstm": 0},
        "decoder": {
            "name": "vocos_decoder",
            "dim": 12,
            "hop": 8,
            "window": 32,
            "width": 16,
            "hidden": 32,
            "layers": 2,
        },
    },
    "quantizer": {
        "name": "mcrvq",
        "num_codebooks": 5,
        "codebook_size": 8,
        "masked": 3,
        "init": "random",
        "update": "frozen",
    },
}


def config(causal, conditions):
    """Of a small codec."""
    model = MODEL["model"]
    encoder, decoder = model["encoder"] | {"causal": causal}, model["decoder"] | {"causal": causal}
    return MODEL | {"model": model | {"encoder": encoder, "decoder": decoder | {"conditions": conditions}}}


def made(causal, conditions):
    """It, with norms that differ from condition to condition."""
    torch.manual_seed(0)
    codec = build(config(causal, conditions)).eval()
    with torch.no_grad():
        for name, parameter in codec.decoder.named_parameters():
            if name.endswith(("norm.gain", "norm.shift")):
                parameter.add_(0.5 * torch.randn_like(parameter))
    return codec


@torch.no_grad()
def test_inverse_transform_restores_a_signal_to_its_ends():
    window, hop = 64, 16
    x = torch.randn(2, 1, 20 * hop, dtype=torch.float64).float()
    side = (window - hop) // 2
    frames = torch.nn.functional.pad(x, (side, side)).unfold(-1, window, hop)[:, 0]  # (B, T, window)
    spectrum = torch.fft.rfft(frames * torch.hann_window(window))
    parts = torch.cat([spectrum.real, spectrum.imag], -1).transpose(1, 2)
    back = InverseSTFT(window, hop)(parts)
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-5)
    late = InverseSTFT(window, hop, causal=True)
    assert late.delay == side
    torch.testing.assert_close(late(parts)[..., side:], x[..., :-side], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="at least twice the hop"):
        InverseSTFT(30, 16)


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_decoder_knows_the_number_of_books_however_it_is_called(causal):
    codec = made(causal, 3)
    audio = torch.randn(1, 1, 8 * 30)
    codes = codec.encode(audio)
    whole = {}
    for codebooks in (3, 4, 5):
        part = codes[:, :codebooks]
        whole[codebooks] = codec.decode(part)
        z = codec.quantizer.decode(part)
        assert torch.equal(codec.decode_latent(z, codebooks), whole[codebooks])
        assert torch.equal(codec.decode_latent(z), whole[codebooks]) == (codebooks == 5), (
            "all codebooks unless told"
        )
        pieces = codec.decoder_stream().run(part.split(7, -1))
        assert torch.equal(torch.cat(list(pieces), -1), whole[codebooks])
        stream = StreamDecoder(codec)
        heard = torch.cat([*map(stream.push, part.split(4, -1)), stream.flush()], -1)
        assert torch.equal(heard[..., codec.delay :], whole[codebooks])
    encoded = list(codec.encoder_stream(num_codebooks=4).run(audio.split(50, -1)))
    assert torch.equal(torch.cat(encoded, -1), codec.encode(audio, num_codebooks=4))


def test_every_sample_of_a_batch_has_its_own_number_of_books():
    codec = made(False, 3)
    codec.quantizer.dropout = 1.0
    codec.train()
    torch.manual_seed(1)
    with torch.no_grad():
        codec(torch.randn(8, 1, 8 * 12))  # the first batch goes through all codebooks
        out = codec(torch.randn(8, 1, 8 * 12))
    codebooks = (out.codes >= 0).all(-1).sum(1)
    assert len(set(codebooks.tolist())) > 1
    codec.eval()
    for row, count in enumerate(codebooks.tolist()):
        alone = codec.decode(out.codes[row : row + 1, :count].clamp_min(0))
        torch.testing.assert_close(out.audio[row : row + 1], alone, rtol=1e-3, atol=1e-5)


def test_conditions_must_be_the_legal_numbers_of_books():
    with pytest.raises(ConfigError, match="tells 4 bit rates apart, but the quantizer has 3 legal numbers"):
        made(False, 4)


def test_a_conditional_codec_survives_its_file(tmp_path):
    codec = made(False, 3)
    checkpoint.save(codec, tmp_path / "a.safetensors", config(False, 3))
    again = checkpoint.load(tmp_path / "a.safetensors")
    codes = codec.encode(torch.randn(1, 1, 80), num_codebooks=3)
    torch.testing.assert_close(again.decode(codes), codec.decode(codes))


@torch.no_grad()
@pytest.mark.parametrize("ahead", [0, 40])
def test_attention_does_not_depend_on_the_batch(ahead):
    attention = Attention(256, 8, 65, ahead)
    x = torch.randn(3, 150, 256)
    assert torch.equal(attention(x)[:1], attention(x[:1]))


@torch.no_grad()
def test_resampling_keeps_tones_that_both_rates_hold_and_no_other():
    half = Resample(2, 3)
    for tone, gain in ((200, 1.0), (6500, 1.0), (8500, 0.0), (11000, 0.0)):
        x = torch.sin(2 * torch.pi * tone * torch.arange(12000, dtype=torch.float64) / 24000).float()[
            None, None
        ]
        wanted = (
            gain * torch.sin(2 * torch.pi * tone * torch.arange(8000, dtype=torch.float64) / 16000).float()
        )
        y = half(x)[0, 0]
        assert y.shape == wanted.shape
        assert (y - wanted)[100:-100].abs().max() < 2e-3


@torch.no_grad()
@pytest.mark.parametrize(
    "encoder",
    [
        SEANetEncoder(16, ratios=(4, 2), width=4),
        DACEncoder(16, rates=(4, 2), width=4, alias_free=True, resample=(2, 1)),
        MimiEncoder(16, ratios=(4, 2), width=4, layers=1, heads=2),
    ],
    ids=["seanet", "bigcodec", "mimi"],
)
def test_latents_start_at_unit_variance_however_soft_the_sound(encoder):
    speech = 0.01 * torch.randn(4, 1, 16 * encoder.hop) * torch.rand(4, 1, 1)
    assert encoder(speech).std((0, 2)).max() < 0.5, "without it they hardly move"
    normalize_convolutions(encoder, speech)
    z = encoder(speech)
    torch.testing.assert_close(z.square().mean((0, 2)), torch.ones(16), rtol=0.02, atol=0.02)


def test_filters_neither_train_nor_travel():
    encoder = DACEncoder(16, rates=(4, 2), width=4, alias_free=True, resample=(2, 3))
    decoder = VocosDecoder(16, hop=8, window=32, width=16, hidden=16, layers=1)
    for part in (encoder, decoder):
        names = [*part.state_dict()]
        assert not [
            name
            for name in names
            if "filters" in name or ".up." in name or ".down." in name or "waves" in name
        ]
    with pytest.raises(ConfigError, match="need causal: false"):
        DACEncoder(16, alias_free=True, causal=True)
    with pytest.raises(ConfigError, match="no whole hop"):
        DACEncoder(16, rates=(5, 3), resample=(2, 3))
