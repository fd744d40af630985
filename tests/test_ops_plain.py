"""The search by matrix products gives the codes of the specification, ties and oddities included."""

import pytest
import torch
from torch import Tensor

from codec.ops import plain, reference


def vectors(kind: str, count: int, dim: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(count, dim, generator=generator)
    if kind == "grid":  # exact ties everywhere
        return x.round()
    if kind == "zero":
        return torch.zeros(count, dim)
    if kind == "far":  # far from the origin: all scores are close to one another
        return x + 300
    return x * {"normal": 1, "large": 1e15, "huge": 1e25, "small": 1e-18, "tiny": 1e-30}[kind]


@pytest.mark.parametrize("kind", ["normal", "grid", "large", "huge", "small", "tiny", "zero", "far"])
@pytest.mark.parametrize(
    ("dim", "size", "beam"), [(1, 2, 1), (8, 500, 1), (64, 300, 1), (37, 3, 4), (8, 60, 16)]
)
def test_codes_equal_the_specification(kind: str, dim: int, size: int, beam: int) -> None:
    generator = torch.Generator().manual_seed(dim * size)
    x = vectors(kind, 100, dim, generator)
    codebooks = torch.stack([vectors(kind, size, dim, generator) * 0.7**k for k in range(3)])
    codebooks[:, -1] = codebooks[:, 0]  # duplicates: the lowest index wins
    expected = reference.rvq_encode(x[None], codebooks[None], beam)
    assert torch.equal(plain.rvq_encode(x[None], codebooks[None], beam), expected)


@pytest.mark.parametrize("beam", [1, 3])
def test_what_is_no_number_gets_code_zero_and_harms_nobody(beam: int) -> None:
    x = torch.randn(1, 5, 8)
    codebooks = torch.randn(1, 2, 16, 8)
    expected = reference.rvq_encode(x, codebooks, beam)[0]
    x[0, 2, 3] = torch.nan
    x[0, 4, 0] = torch.inf
    codes = plain.rvq_encode(x, codebooks, beam)
    assert torch.equal(codes, reference.rvq_encode(x, codebooks, beam))
    assert codes[0, 2].tolist() == codes[0, 4].tolist() == [0, 0]
    assert torch.equal(codes[0, [0, 1, 3]], expected[[0, 1, 3]])


@pytest.mark.parametrize("beam", [1, 12])
def test_books_filled_up_with_infinity(beam: int) -> None:
    codebooks = torch.randn(1, 2, 16, 8)
    codebooks[0, 1, 10:] = torch.inf
    x = torch.randn(1, 50, 8)
    codes = plain.rvq_encode(x, codebooks, beam)
    assert torch.equal(codes, reference.rvq_encode(x, codebooks, beam))
    assert int(codes[0, :, 1].max()) < 10


def test_codes_stay_exact_where_matrix_products_may_use_fewer_bits() -> None:
    generator = torch.Generator().manual_seed(0)
    x, codebooks = (
        torch.randn(1, 200, 128, generator=generator),
        torch.randn(1, 2, 64, 128, generator=generator),
    )
    torch.set_float32_matmul_precision("medium")
    try:
        codes = plain.rvq_encode(x, codebooks)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(codes, reference.rvq_encode(x, codebooks))


def test_few_rows_need_exact_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    exact = plain._distances

    def count(residual: Tensor, codebook: Tensor, row: Tensor, chosen: Tensor) -> Tensor:
        settled.append(len(row))
        return exact(residual, codebook, row, chosen)

    monkeypatch.setattr(plain, "_distances", count)
    plain.rvq_encode(torch.randn(1, 2000, 64), torch.randn(1, 4, 1024, 64))
    assert sum(settled) < 80  # of 8,000
