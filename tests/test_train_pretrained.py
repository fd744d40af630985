"""`weights=`: a codec in training takes the weights of a file, of the same codec and no other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import make_model

from codec import checkpoint
from codec.build import build
from codec.errors import CheckpointError
from codec.quantizers import Codebook
from codec.train.pretrained import fill


def quantized(config: dict[str, Any], quantizer: dict[str, Any]) -> dict[str, Any]:
    return config | {"quantizer": quantizer}


def test_a_codec_that_learns_takes_the_weights_of_a_file(tiny_config, tmp_path):
    seanet = {"dim": 16, "width": 4, "ratios": [4, 4, 5, 4], "lstm": 0}
    model = tiny_config["model"] | {
        "encoder": {"name": "seanet_encoder", **seanet},
        "decoder": {"name": "seanet_decoder", **seanet},
    }
    config = tiny_config | {"model": model}
    frozen = quantized(config, config["quantizer"] | {"update": "frozen"})
    file = make_model(tmp_path / "a.safetensors", frozen)
    codec = build(config)
    metadata = fill(codec, file, config)
    source = checkpoint.load(file)
    audio = 0.1 * torch.randn(1, 1, 16000)
    assert metadata["config"] == frozen
    codec.eval()
    torch.testing.assert_close(codec.encoder(audio), source.encoder(audio), rtol=1e-4, atol=1e-5)
    assert torch.equal(codec.encode(audio), source.encode(audio))
    for codebook in codec.quantizer.modules():
        if isinstance(codebook, Codebook):
            assert codebook.is_initialised
            assert torch.equal(codebook.update_rule.sums, codebook.table.weight * codebook.counts[:, None])


def test_a_layer_of_zeros_can_learn_again(tiny_config, tmp_path):
    seanet = {"dim": 16, "width": 4, "ratios": [4, 4, 5, 4], "lstm": 0}
    halves = {half: {"name": f"seanet_{half}", **seanet} for half in ("encoder", "decoder")}
    config = tiny_config | {"model": tiny_config["model"] | halves}
    file = make_model(tmp_path / "a.safetensors", config)
    name = next(key for key in checkpoint.load(file).state_dict() if key.endswith("weight"))
    torch.manual_seed(0)
    codec = build(config)
    source = checkpoint.load(file)
    with torch.no_grad():
        source.state_dict()[name][0] = 0
    checkpoint.save(source, file, config)
    fill(codec, file, config)
    weight = checkpoint.folded_state(codec)[name]
    assert weight[0].abs().max() == 0
    weight[0].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in codec.parameters())


@pytest.mark.parametrize(
    ("there", "here", "what"),
    [
        (
            {"name": "fsq", "levels": [8, 5, 5, 5]},
            {"name": "ifsq", "levels": [8, 5, 5, 5]},
            "chooses other codes",
        ),
        (
            {"name": "residual_fsq", "levels": [4, 4, 4], "stages": 2},
            {"name": "residual_fsq", "levels": [4, 4, 4], "stages": 2, "robust": False},
            "differ in the shape of|chooses other codes",
        ),
        (
            {"name": "split_rvq", "num_codebooks": 4, "codebook_size": 32},
            {"name": "split_rvq", "num_codebooks": 4, "codebook_size": 32, "parallel": False},
            "chooses other codes",
        ),
        (
            {"name": "rvq", "num_codebooks": 4, "codebook_size": 32},
            {"name": "rvq", "num_codebooks": 3, "codebook_size": 32},
            r"differ in the shape of quantizer\.",
        ),
        ({"name": "fsq", "levels": [4, 4]}, {"name": "fsq", "levels": [8, 2]}, "chooses other codes"),
    ],
    ids=["ifsq", "robust", "parallel", "books", "levels"],
)
def test_weights_under_another_quantizer_are_refused(tiny_config, tmp_path, there, here, what):
    file = make_model(tmp_path / "a.safetensors", quantized(tiny_config, there))
    fill(build(quantized(tiny_config, there)), file, quantized(tiny_config, there))
    with pytest.raises(CheckpointError, match=what):
        fill(build(quantized(tiny_config, here)), file, quantized(tiny_config, here))


def test_weights_that_are_not_finite_are_refused(tiny_config, tmp_path):
    codec = build(tiny_config)
    with torch.no_grad():
        next(codec.decoder.parameters()).fill_(float("nan"))
    checkpoint.save(codec, tmp_path / "a.safetensors", tiny_config)
    with pytest.raises(CheckpointError, match="not finite"):
        fill(build(tiny_config), tmp_path / "a.safetensors", tiny_config)
