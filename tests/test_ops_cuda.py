"""The search on a GPU: its instructions, its streams, its graphs. Imports nothing but torch and the operator.

The kernel's arithmetic is tested without a GPU in test_cuda_emulation.py.
"""

import pytest
import torch
from torch import Tensor

from codec import ops
from codec.bench import rvq as bench
from codec.ops import kernel, plain, reference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def required(monkeypatch: pytest.MonkeyPatch) -> None:
    """No falling back to plain torch unnoticed."""
    monkeypatch.setenv("CODEC_CUDA", "require")


def draw(rows: int, dim: int, size: int, stages: int = 3, groups: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows + dim + size)
    x = torch.randn(groups, rows, dim, generator=generator)
    return x, torch.randn(groups, stages, size, dim, generator=generator) * 0.7


def same(x: Tensor, codebooks: Tensor, beam: int = 1) -> bool:
    expected = reference.rvq_encode(x, codebooks, beam)
    return torch.equal(ops.rvq_encode(x.cuda(), codebooks.cuda(), beam=beam).cpu(), expected)


@pytest.mark.parametrize("dim", [1, 8, 11, 12, 16, 32, 44, 64, 100, 128, 256, 512, 523])
@pytest.mark.parametrize("size", [2, 100, 1000])
def test_codes_equal_the_specification(dim: int, size: int) -> None:
    for rows in (1, 17, 1500):
        assert same(*draw(rows, dim, size), 1)


@pytest.mark.parametrize("beam", [2, 4, 16])
@pytest.mark.parametrize("dim", [8, 64, 512])
def test_beams(dim: int, beam: int) -> None:
    for rows in (1, 200):
        assert same(*draw(rows, dim, 60, groups=2), beam)


@pytest.mark.parametrize("scale", [1e25, 1e-30])
def test_scales_that_bfloat16_products_leave(scale: float) -> None:
    x, codebooks = draw(50, 64, 40)
    assert same(x * scale, codebooks * scale)


def test_oddities() -> None:
    x, codebooks = draw(100, 64, 40)
    x[0, 3, 5], x[0, 7, 0], codebooks[0, 0, 11], codebooks[0, 1, 3, 2] = (
        torch.nan,
        torch.inf,
        torch.inf,
        torch.nan,
    )
    codebooks[0, 2, 20] = codebooks[0, 2, 10]
    for beam in (1, 3):
        assert same(x, codebooks, beam)
    assert same(x.round(), codebooks.round())  # exact ties


def test_largest_book() -> None:
    x, codebooks = draw(20, 8, 65_536, stages=2)
    for beam in (1, 2):
        assert same(x, codebooks, beam)


@pytest.mark.parametrize("shape", bench.SHAPES["cuda"], ids=str)
def test_no_choice_is_worse_than_the_nearest_in_float64(shape: bench.Shape) -> None:
    x, codebooks = bench.problem(shape, "cuda")
    codes = ops.rvq_encode(x, codebooks, beam=shape.beam)
    assert bench.mistakes(x, codebooks, codes, shape.beam) == 0
    if shape.beam == 1:
        assert torch.equal(codes, plain.rvq_encode(x[None], codebooks[None])[0])


def test_operator_contract() -> None:
    x, codebooks = (t.cuda() for t in draw(9, 8, 20, groups=2))
    torch.library.opcheck(torch.ops.codec.rvq_encode.default, (x, codebooks, 2))
    torch.library.opcheck(torch.ops.codec.rvq_encode_train.default, (x.requires_grad_(), codebooks))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_types_and_layouts(dtype: torch.dtype) -> None:
    x, codebooks = draw(50, 16, 20)
    x, codebooks = x.to(dtype), codebooks.to(dtype)
    expected = reference.rvq_encode(x, codebooks)[0]
    columns = x[0].t().contiguous().cuda()
    assert torch.equal(ops.rvq_encode(columns.t(), codebooks[0].cuda()).cpu(), expected)


def test_empty_input() -> None:
    codebooks = torch.randn(3, 20, 8, device="cuda")
    assert ops.rvq_encode(torch.zeros(0, 8, device="cuda"), codebooks).shape == (0, 3)
    trained = ops.rvq_encode_train(torch.zeros(0, 8, device="cuda"), codebooks)
    assert trained.counts.sum() == 0


def test_another_stream() -> None:
    x, codebooks = (t.cuda() for t in draw(20_000, 64, 500))
    expected = ops.rvq_encode(x, codebooks)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # what runs on another stream than this one comes too early
        later = x * 1
        codes = ops.rvq_encode(later, codebooks)
    stream.synchronize()
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("rows", [1, 5000])
@pytest.mark.parametrize("beam", [1, 4])
def test_graph(rows: int, beam: int) -> None:
    x, codebooks = (t.cuda() for t in draw(rows, 64, 200))
    static = x.clone()
    ops.rvq_encode(static, codebooks, beam=beam)  # the library is loaded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes = ops.rvq_encode(static, codebooks, beam=beam)
    for scale in (1.0, -0.5):
        static.copy_(x * scale)
        graph.replay()
        assert torch.equal(codes, ops.rvq_encode(x * scale, codebooks, beam=beam))


def test_training_variant() -> None:
    x, codebooks = (t.cuda() for t in draw(3000, 40, 50, groups=2))
    codes = ops.rvq_encode(x, codebooks)
    expected = reference.statistics(x, codebooks, codes)
    leaf = x.clone().requires_grad_()
    trained = ops.rvq_encode_train(leaf, codebooks)
    assert torch.equal(trained.codes, codes)
    assert torch.equal(trained.quantized, expected[0])
    assert torch.equal(trained.counts, expected[1])
    assert torch.allclose(trained.sums, expected[2], atol=1e-3)
    trained.quantized.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))


def test_compiled_by_torch() -> None:
    x, codebooks = (t[0].cuda() for t in draw(300, 8, 20))
    encode = torch.compile(lambda a, b: ops.rvq_encode(a * 2, b) + 1, fullgraph=True)
    assert torch.equal(encode(x, codebooks), ops.rvq_encode(x * 2, codebooks) + 1)


def test_two_devices() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x, codebooks = draw(300, 64, 50)
    assert torch.equal(
        ops.rvq_encode(x.to("cuda:1"), codebooks.to("cuda:1")).cpu(), reference.rvq_encode(x, codebooks)
    )


def test_what_is_in_use() -> None:
    assert kernel.describe().startswith("compiled CUDA")
