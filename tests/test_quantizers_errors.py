"""Bad input gets one clear sentence."""

import re

import pytest
import torch

from codec.errors import CodecError, ConfigError
from codec.quantizers import FSQ, GRVQ, MCRVQ, PVQ, RVQ, VQ, ProductVQ, SplitRVQ, TurboQuant


@pytest.fixture(autouse=True)
def _quiet():
    torch.manual_seed(0)


def rvq() -> RVQ:
    return RVQ(8, 3, 16, prefixes=[1, 3]).eval()


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (torch.zeros(1, 7, 5), r"\(batch, 8, frames\), not \(1, 7, 5\)"),
        (torch.zeros(8, 5), r"not \(8, 5\)"),
        (torch.zeros(1, 8, 5, dtype=torch.int64), "floating point, not torch.int64"),
        (torch.zeros(1, 8, 5, dtype=torch.complex64), "floating point"),
    ],
)
def test_latents_of_the_wrong_kind(latents: torch.Tensor, words: str) -> None:
    for call in (rvq(), rvq().encode):
        with pytest.raises(CodecError, match=words):
            call(latents)


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (torch.zeros(1, 3, 4), "integers, not torch.float32"),
        (torch.zeros(3, 4, dtype=torch.int64), "the shape"),
        (torch.zeros(1, 2, 4, dtype=torch.int64), "num_codebooks is 2, but this quantizer can use 1, 3"),
        (torch.zeros(1, 0, 4, dtype=torch.int64), "num_codebooks is 0"),
    ],
)
def test_codes_of_the_wrong_kind(codes: torch.Tensor, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        rvq().decode(codes)


@pytest.mark.parametrize("value", [16, -1, 1 << 40])
@pytest.mark.parametrize("make", [rvq, lambda: FSQ(8, [4, 4], 3), lambda: GRVQ(8, 3, 1, 16)])
def test_a_code_out_of_range_is_named(make: object, value: int) -> None:
    codes = torch.zeros(2, 3, 5, dtype=torch.int64)
    codes[1, 2, 4] = value
    with pytest.raises(CodecError, match=re.escape(f"code {value} in codebook 2, frame 4 (batch 1)")):
        make().decode(codes)  # type: ignore[operator]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make", [lambda: RVQ(8, 3, 16), lambda: FSQ(8), lambda: PVQ(8, 2), lambda: TurboQuant(8)]
)
def test_nan_is_refused_in_eval_and_counted_in_training(make: object, value: float) -> None:
    quantizer = make()  # type: ignore[operator]
    z = torch.randn(2, 8, 40)
    quantizer(z)
    before = {k: v.clone() for k, v in quantizer.state_dict().items() if "steps" not in k}
    z[1, 3, 7] = value
    out = quantizer(z)
    assert out.metrics["nonfinite"] == 1
    if out.losses:
        assert not torch.isfinite(out.losses["range" if isinstance(quantizer, FSQ) else "commit"])
    for key, old in before.items():
        assert torch.equal(old, quantizer.state_dict()[key]), key
    quantizer.eval()
    for call in (quantizer, quantizer.encode):
        with pytest.raises(
            CodecError, match="1 latent values are NaN or infinite, the first one in batch 1, frame 7"
        ):
            call(z)


def test_a_book_does_not_start_from_nan() -> None:
    quantizer = RVQ(8, 2, 16)
    z = torch.randn(2, 8, 40)
    bad = z.clone()
    bad[0, 0, 0] = float("nan")
    quantizer(bad)
    assert not quantizer.codebook(0).initialised
    quantizer(z)
    assert quantizer.codebook(0).initialised
    assert all(torch.isfinite(v).all() for v in quantizer.state_dict().values())


def test_num_codebooks_must_be_a_prefix() -> None:
    for call in (rvq(), rvq().encode):
        with pytest.raises(CodecError, match="num_codebooks is 2, but this quantizer can use 1, 3"):
            call(torch.zeros(1, 8, 5), num_codebooks=2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"table": "nope"}, "table 'nope' does not exist; there are free, simvq, fvq"),
        (
            {"assignment": "soft"},
            "assignment 'soft' does not exist; there are nearest, sinkhorn, softmax, gumbel",
        ),
        ({"replace_dead": None}, "replace_dead None does not exist; there are"),
        ({"update": "adam"}, "there are ema, gradient, sync, frozen"),
        ({"replace_dead": "often"}, "there are none, threshold, cvq"),
        ({"gradient_estimator": "golden"}, "there are straight_through, rotation"),
        ({"gradient_estimator": "auto"}, "gradient_estimator cannot be 'auto'"),
        ({"init": "cold"}, "init 'cold' does not exist; there are kmeans, random"),
        ({"regularisers": ["more"]}, "there are orthogonal, entropy, wasserstein"),
        ({"replace_dead": {"ratio": 0.1}}, "replace_dead None does not exist"),
        ({"replace_dead": {"name": "threshold", "rate": 1}}, "replace_dead 'threshold' refuses its settings"),
        ({"replace_dead": {"name": "threshold", "ratio": 2}}, "ratio must lie between 0 and 1"),
        ({"table": {"name": "factorized", "normalize": "maybe"}}, "both, lookup or none"),
        ({"table": "fvq", "codebook_size": 20}, "square of a multiple of 4, not 20"),
        ({"colour": "red"}, "no setting 'colour'; it has table, assignment"),
        ({"table": "simvq", "update": "ema"}, "update must be gradient or sync, not ema"),
        ({"table": "fvq", "replace_dead": "threshold"}, "replace_dead must be none, not threshold"),
        ({"table": "simvq", "init": "kmeans"}, "init must be random, not kmeans"),
        ({"assignment": "softmax", "update": "ema"}, "update must be gradient, not ema"),
        (
            {"assignment": "gumbel", "gradient_estimator": "rotation"},
            "gradient_estimator must be straight_through, not rotation",
        ),
        ({"update": "frozen", "replace_dead": "cvq"}, "replace_dead must be none, not cvq"),
        ({"update": "frozen", "init": "kmeans"}, "init must be random, not kmeans"),
        ({"codebook_size": 1}, "2 to 2\\^32 codes, not 8 and 1"),
        ({"dropout": 2}, "from 0 to 1, not 2"),
        ({"prefixes": [1, 2]}, "prefixes must ascend to 3"),
    ],
)
def test_settings_are_refused_in_a_sentence(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RVQ(8, **{"num_codebooks": 3, "codebook_size": 16, **settings})


def test_shapes_that_do_not_fit() -> None:
    for make, words in (
        (lambda: GRVQ(8, 9, 1, 16), "8 channels cannot be cut into 9 parts"),
        (lambda: ProductVQ(8, 9, 16), "cannot be cut"),
        (lambda: MCRVQ(8, 2, 16, masked=3), "masked codebooks must be 1 to 2"),
        (lambda: SplitRVQ(8, 2, 16, semantic_codebooks=2), "2 semantic and 0 acoustic"),
        (
            lambda: SplitRVQ(8, 4, 16, semantic_codebooks=2, prefixes=[1, 4]),
            "must hold the 2 semantic codebooks",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            make()


def test_few_vectors_at_the_start_are_said_and_survived() -> None:
    quantizer = VQ(8, 64)
    with pytest.warns(UserWarning, match="k-means start: 10 vectors for 64 codes"):
        out = quantizer(torch.randn(1, 8, 10))
    assert torch.isfinite(out.quantized).all()
    assert (out.quantized - quantizer.eval()(out.quantized).quantized).abs().max() < 1
    assert len(torch.unique(quantizer.codebook(0).table.weight, dim=0)) > 50
