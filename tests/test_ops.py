"""The operator: its compiled search against the specification, its contract with torch, and bad input."""

from pathlib import Path

import pytest
import torch
from conftest import LEVELS
from torch import Tensor

from codec import audio, files, native, ops
from codec.bench import rvq as bench
from codec.ops import plain, reference


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> native.Level:
    """Each level of instructions that this processor can run."""
    return native.levels()[request.param]


def compiled(level: native.Level, x: Tensor, codebooks: Tensor, beam: int = 1, threads: int = 1) -> Tensor:
    codes = torch.full((len(x), len(codebooks)), -1)
    pointers = x.data_ptr(), codebooks.data_ptr(), codes.data_ptr()
    sizes = len(x), x.shape[1], len(codebooks), codebooks.shape[1]
    assert level.rvq_encode(*pointers, *sizes, beam, threads) == 0
    return codes


def draw(kind: str, rows: int, dim: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator)
    codebooks = torch.randn(3, size, dim, generator=generator) * 0.7
    if kind == "grid":  # exact ties everywhere
        return x.round(), codebooks.round()
    if kind == "duplicates":
        codebooks[0, size // 2] = codebooks[0, 0]
        codebooks[1] = 0
        x[0] = 0
        return x, codebooks
    if kind == "oddities":
        codebooks[0, size // 2] = torch.inf
        codebooks[1, 0, 0] = torch.nan
        x[rows // 2, 0], x[rows // 3, -1] = torch.nan, -torch.inf
        return x, codebooks
    if kind == "close":  # what 16 bits cannot tell apart, and float32 hardly
        codebooks[0] = codebooks[0, :1] + codebooks[0] * 2.0**-14
        return x, codebooks
    scale = {"normal": 1, "huge": 1e25, "tiny": 1e-30}[kind]
    return x * scale, codebooks * scale


@pytest.mark.parametrize("kind", ["normal", "grid", "duplicates", "oddities", "close", "huge", "tiny"])
@pytest.mark.parametrize("beam", [1, 3, 16])
def test_compiled_codes_equal_the_specification(level: native.Level, kind: str, beam: int) -> None:
    # few rows, an incomplete vector, whole blocks and the 16 bit path; tiles and parts that do not fill up
    shapes = [(1, 8, 64), (5, 33, 7), (17, 64, 1), (70, 3, 6), (150, 40, 20), (20, 300, 70)]
    for seed, (rows, dim, size) in enumerate(shapes):
        x, codebooks = draw(kind, rows, dim, size, seed)
        expected = reference.rvq_encode(x[None], codebooks[None], beam)[0]
        assert torch.equal(compiled(level, x, codebooks, beam, threads=1 + seed % 2), expected), (
            rows,
            dim,
            size,
        )


def test_compiled_codes_do_not_depend_on_the_batch(level: native.Level) -> None:
    x, codebooks = draw("normal", 400, 64, 200, 0)
    whole = compiled(level, x, codebooks)
    for rows in (1, 3, 40, 129):
        parts = [compiled(level, part.contiguous(), codebooks) for part in x.split(rows)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(plain.rvq_encode(x[None], codebooks[None])[0], whole)


def test_chosen_distance_is_the_smallest_in_float64(level: native.Level) -> None:
    x, codebooks = draw("normal", 2000, 16, 256, 0)
    codes = compiled(level, x, codebooks)
    residual = x
    for k, codebook in enumerate(codebooks):
        distance = (residual.double()[:, None] - codebook.double()).square().sum(-1)
        chosen = distance.gather(1, codes[:, k : k + 1])[:, 0]
        assert bool((chosen <= distance.amin(1) * (1 + 2**-40)).all())
        residual = residual - codebook[codes[:, k]]


def test_no_choice_is_worse_than_the_nearest_for_latents_of_the_default_model(level: native.Level) -> None:
    model = files.load("default")
    sound, rate = audio.read(Path(__file__).parent / "data" / "speech.flac")
    samples = torch.from_numpy(audio.to_model(sound, rate, model.sample_rate, model.channels)[0])
    with torch.inference_mode():
        x = model.encoder(samples[..., : samples.shape[-1] // model.hop * model.hop])[0].t().contiguous()
        codebooks = model.quantizer._stack(len(model.quantizer.codebook_sizes)).codebooks[0]
        assert len(x) > 400
        assert bench.mistakes(x, codebooks, compiled(level, x, codebooks)) == 0


def test_beam_finds_what_greedy_misses() -> None:
    x, codebooks = draw("normal", 300, 8, 4, 0)

    def error(codes: Tensor) -> float:
        return float((x - sum(codebook[codes[:, k]] for k, codebook in enumerate(codebooks))).square().sum())

    errors = [error(ops.rvq_encode(x, codebooks, beam=beam)) for beam in (1, 2, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    # sixteen sequences are all there are before the last of three stages of four codes: the search is exhaustive
    every = x[:, None, None, None] - (codebooks[0][:, None, None] + codebooks[1][:, None] + codebooks[2])
    assert errors[-1] == pytest.approx(float(every.square().sum(-1).flatten(1).amin(1).sum()))
    assert errors[-1] < 0.95 * errors[0]


def test_opcheck() -> None:
    x, codebooks = torch.randn(2, 9, 8), torch.randn(2, 3, 20, 8)
    torch.library.opcheck(torch.ops.codec.rvq_encode.default, (x, codebooks, 2))
    torch.library.opcheck(torch.ops.codec.rvq_encode_train.default, (x.requires_grad_(), codebooks))


def test_compile_traces_through_the_operators() -> None:
    x, codebooks = torch.randn(10, 8), torch.randn(3, 20, 8)

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def encode(x: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
        trained = ops.rvq_encode_train(x * 2, codebooks)
        return ops.rvq_encode(x * 2, codebooks) + 1, trained.quantized

    for rows in (10, 4):
        codes, quantized = encode(x[:rows], codebooks)
        assert torch.equal(codes, ops.rvq_encode(x[:rows] * 2, codebooks) + 1)
        assert torch.equal(quantized, ops.rvq_encode_train(x[:rows] * 2, codebooks).quantized)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_layouts_are_the_float32_values(dtype: torch.dtype) -> None:
    x, codebooks = torch.randn(8, 30).to(dtype), torch.randn(3, 8, 20).to(dtype)
    codes = ops.rvq_encode(x.t(), codebooks.transpose(1, 2))
    assert torch.equal(
        codes, reference.rvq_encode(x.t().float()[None], codebooks.transpose(1, 2).float()[None])[0]
    )
    shared = codebooks.transpose(1, 2)[:1].expand(4, -1, -1)  # one codebook for all stages, without a copy
    assert torch.equal(ops.rvq_encode(x.t(), shared), ops.rvq_encode(x.t(), shared.contiguous()))


def test_groups_are_independent() -> None:
    x, codebooks = torch.randn(3, 40, 8), torch.randn(3, 2, 20, 8)
    codes = ops.rvq_encode(x, codebooks, beam=2)
    assert torch.equal(codes, torch.stack([ops.rvq_encode(x[g], codebooks[g], beam=2) for g in range(3)]))


def test_empty_input() -> None:
    codebooks = torch.randn(3, 20, 8)
    assert ops.rvq_encode(torch.zeros(0, 8), codebooks).shape == (0, 3)
    assert ops.rvq_encode(torch.zeros(5, 8), codebooks[:0]).shape == (5, 0)
    trained = ops.rvq_encode_train(torch.zeros(0, 8), codebooks)
    assert trained.counts.sum() == 0
    assert trained.sums.shape == (3, 20, 8)


def test_training_variant() -> None:
    x, codebooks = torch.randn(50, 8, requires_grad=True), torch.randn(3, 20, 8)
    trained = ops.rvq_encode_train(x, codebooks)
    assert torch.equal(trained.codes, ops.rvq_encode(x, codebooks))
    assert torch.allclose(
        trained.quantized, sum(codebook[trained.codes[:, k]] for k, codebook in enumerate(codebooks))
    )
    for k in range(3):
        assert torch.equal(trained.counts[k], torch.bincount(trained.codes[:, k], minlength=20).float())
    means = trained.sums / trained.counts.clamp(min=1)[..., None]
    first = trained.codes[0, 0]
    assert torch.allclose(means[0, first], x[trained.codes[:, 0] == first].mean(0), atol=1e-6)
    weight = torch.randn(50, 8)
    (trained.quantized * weight).sum().backward()
    assert torch.equal(x.grad, weight)  # straight through


@pytest.mark.parametrize(
    ("x", "codebooks", "beam", "message"),
    [
        ((5, 8), (3, 20, 9), 1, "width 8 but the code vectors have width 9"),
        ((5, 8), (20, 8), 1, "must be"),
        ((2, 5, 8), (3, 3, 20, 8), 1, "2 groups but there are codebooks for 3"),
        ((5, 8), (3, 0, 8), 1, "1 to 65,536 codes"),
        ((5, 8), (1, 65_537, 8), 1, "1 to 65,536 codes"),
        ((5, 8), (3, 20, 8), 0, "beam must be 1 to 16"),
        ((5, 8), (3, 20, 8), 17, "beam must be 1 to 16"),
    ],
)
def test_bad_shapes(x: tuple[int, ...], codebooks: tuple[int, ...], beam: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ops.rvq_encode(torch.zeros(x), torch.zeros(codebooks), beam=beam)


def test_bad_devices_and_types() -> None:
    with pytest.raises(ValueError, match="on meta"):
        ops.rvq_encode(torch.zeros(5, 8), torch.zeros(3, 20, 8, device="meta"))
    with pytest.raises(ValueError, match="floating point"):
        ops.rvq_encode(torch.zeros(5, 8, dtype=torch.int64), torch.zeros(3, 20, 8))
