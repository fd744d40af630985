"""The search by matrix products gives the codes of the specification, ties and oddities included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codec.ops import plain, reference


def vectors(kind: str, count: int, dim: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(count, dim, generator=generator)
    if kind == "grid":  # exact ties everywhere
        return x.round()
    if kind == "large":
        return x * 1e15
    if kind == "small":
        return x * 1e-18
    if kind == "zero":
        return torch.zeros(count, dim)
    if kind == "far":  # far from the origin: all scores are close to one another
        return x + 300
    return x


@pytest.mark.parametrize("kind", ["normal", "grid", "large", "small", "zero", "far"])
@pytest.mark.parametrize(("dim", "size"), [(1, 2), (8, 1000), (64, 1024), (37, 3)])
def test_codes_equal_the_specification(kind: str, dim: int, size: int) -> None:
    generator = torch.Generator().manual_seed(dim * size)
    x = vectors(kind, 300, dim, generator)
    books = torch.stack([vectors(kind, size, dim, generator) * 0.7**k for k in range(3)])
    books[:, -1] = books[:, 0]  # duplicates: the lowest index wins
    assert torch.equal(
        plain.rvq_encode(x[None], books[None])[0], reference.rvq_encode(x[None], books[None])[0]
    )


def test_what_is_no_number_gets_code_zero_and_harms_nobody() -> None:
    x = torch.randn(5, 8)
    books = torch.randn(2, 16, 8)
    expected = reference.encode_greedy(x, books)
    x[2, 3] = torch.nan
    x[4, 0] = torch.inf
    codes = plain.encode_greedy(x, books)
    assert torch.equal(codes, reference.encode_greedy(x, books))
    assert codes[2].tolist() == codes[4].tolist() == [0, 0]
    assert torch.equal(codes[[0, 1, 3]], expected[[0, 1, 3]])


def test_books_filled_up_with_infinity() -> None:
    books = torch.randn(2, 16, 8)
    books[1, 10:] = torch.inf
    x = torch.randn(50, 8)
    codes = plain.encode_greedy(x, books)
    assert torch.equal(codes, reference.encode_greedy(x, books))
    assert int(codes[:, 1].max()) < 10


def test_leaders_are_settled_without_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[int] = []
    slow = reference.encode_greedy

    def count(x: Tensor, books: Tensor) -> Tensor:
        settled.append(len(x))
        return slow(x, books)

    monkeypatch.setattr(reference, "encode_greedy", count)
    plain.encode_greedy(torch.randn(2000, 64), torch.randn(4, 1024, 64))
    assert sum(settled) < 40  # of 8,000
