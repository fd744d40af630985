"""Beams and coordinate descent at encode time."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from codec import ops
from codec.errors import CodecError
from codec.quantizers import GRVQ, MCRVQ, RVQ, Additive, ProductVQ, Quantizer, ResidualFSQ, SplitRVQ
from codec.quantizers.search import search_beam


@pytest.fixture(scope="module")
def trained() -> dict[str, Quantizer]:
    torch.manual_seed(0)
    made: dict[str, Quantizer] = {
        "rvq": RVQ(16, 4, 32),
        "grvq": GRVQ(16, 2, 3, 32),
        "mcrvq": MCRVQ(16, 5, 32),
        "shared": RVQ(16, 4, 32, shared=True),
        "product": ProductVQ(16, 4, 32),
        "residual_fsq": ResidualFSQ(16, [3, 2, 3, 2], 3, groups=4),
        "factorized": RVQ(16, 3, 32, table={"name": "factorized", "width": 6}),
    }
    for quantizer in made.values():
        optimiser = torch.optim.Adam([*quantizer.parameters(), torch.zeros(1, requires_grad=True)], 0.01)
        for _ in range(20):
            z = torch.randn(8, 16, 40)
            out = quantizer(z)
            optimiser.zero_grad()
            ((out.quantized - z).square().mean() + sum(out.losses.values())).requires_grad_().backward()
            optimiser.step()
        quantizer.eval()
    return made


def error(quantizer: Quantizer, z: Tensor, codes: Tensor) -> Tensor:
    return (quantizer.decode(codes).double() - z.double()).square().sum(1)  # (B, T)


@pytest.mark.parametrize("name", ["rvq", "grvq", "mcrvq", "shared", "product", "residual_fsq", "factorized"])
def test_more_search_means_less_error(trained: dict[str, Quantizer], name: str) -> None:
    quantizer, z = trained[name], torch.randn(4, 16, 50, generator=torch.Generator().manual_seed(1))
    greedy = quantizer.encode(z)
    assert torch.equal(quantizer.encode(z, beam=1, refine=0), quantizer(z).codes)
    means = [error(quantizer, z, quantizer.encode(z, beam=beam)).mean() for beam in (1, 2, 4, 8)]
    assert means[0] == error(quantizer, z, greedy).mean()
    assert all(b <= a * 1.001 for a, b in pairwise(means))
    if name == "product":  # its codebooks do not depend on each other: the greedy search is the best one
        assert means[3] == means[0]
        return
    if name in ("rvq", "grvq", "mcrvq", "shared"):
        assert means[2] < 0.98 * means[0]
    for beam in (1, 4):
        before = error(quantizer, z, quantizer.encode(z, beam=beam))
        for sweeps in (1, 2, 3):
            after = error(quantizer, z, quantizer.encode(z, beam=beam, refine=sweeps))
            assert (after <= before * (1 + 1e-5)).all()
            before = after
        assert beam > 1 or before.mean() < error(quantizer, z, greedy).mean()


@pytest.mark.parametrize("name", ["rvq", "grvq", "mcrvq"])
def test_beams_of_any_book_are_those_of_the_operator(trained: dict[str, Quantizer], name: str) -> None:
    quantizer, z = trained[name], torch.randn(60, 16)
    assert isinstance(quantizer, Additive)
    stages = [(quantizer.codebook(k), quantizer.spans[k]) for k in range(len(quantizer.spans))]
    assert torch.equal(search_beam(z, stages, 1), quantizer.encode(z.t()[None])[0].t())
    if name != "grvq":  # groups are searched one by one by the operator, together by the other
        same = search_beam(z, stages, 4) == quantizer.encode(z.t()[None], beam=4)[0].t()
        assert same.all(1).float().mean() > 0.97  # float32 against the operator's exact distances


def test_a_full_beam_finds_the_best_codes() -> None:
    torch.manual_seed(0)
    quantizer = RVQ(3, 2, 4).eval()
    quantizer.load_tables(torch.randn(2, 4, 3))
    z = torch.randn(1, 3, 30)
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4)).t()[None]  # (1, 2, 16)
    sums = quantizer.decode(every)[0]
    best = (z[0].t()[:, None] - sums.t()).square().sum(2).amin(1)
    assert torch.allclose(error(quantizer, z, quantizer.encode(z, beam=4))[0].float(), best, atol=1e-5)


def test_example_of_the_paper() -> None:
    """Greedy picks the nearest code first and cannot get back: arXiv 2509.19186 starts from such a case."""
    quantizer = RVQ(1, 2, 2).eval()
    quantizer.load_tables([torch.tensor([[2.0], [3.0]]), torch.tensor([[-0.9], [1.0]])])
    z = torch.tensor([[[2.13]]])
    assert error(quantizer, z, quantizer.encode(z)) > 0.7
    assert error(quantizer, z, quantizer.encode(z, beam=2)) < 0.01
    assert error(quantizer, z, quantizer.encode(z, refine=1)) > 0.7  # one code at a time does not help here


def test_each_half_of_a_split_quantizer_searches_its_own_space() -> None:
    torch.manual_seed(0)
    quantizer, z = SplitRVQ(16, 5, 32, semantic_codebooks=2, width=8), torch.randn(2, 16, 200)
    quantizer(z)
    quantizer.eval()
    halves = (quantizer.semantic_rvq, quantizer.acoustic_rvq)
    inside = [layer(z.mT).mT for layer in quantizer.in_proj]
    for beam, refine in ((1, 0), (4, 0), (4, 2)):
        codes = quantizer.encode(z, beam=beam, refine=refine)
        expected = [half.encode(x, beam=beam, refine=refine) for half, x in zip(halves, inside, strict=True)]
        assert (
            codes == torch.cat(expected, 1)
        ).float().mean() > 0.99  # the linear layers see other shapes here


def test_prefixes_and_empty_input(trained: dict[str, Quantizer]) -> None:
    for quantizer in trained.values():
        for num in quantizer.prefixes:
            assert quantizer.encode(torch.randn(2, 16, 3), num_codebooks=num, beam=2, refine=1).shape == (
                2,
                num,
                3,
            )
        assert quantizer.encode(torch.zeros(2, 16, 0), beam=4, refine=1).shape == (
            2,
            quantizer.prefixes[-1],
            0,
        )


def test_wide_beams_and_bad_numbers(trained: dict[str, Quantizer]) -> None:
    quantizer, z = trained["rvq"], torch.randn(1, 16, 9)
    wide = quantizer.encode(z, beam=ops.MAX_BEAM + 4)
    assert error(quantizer, z, wide).mean() <= error(quantizer, z, quantizer.encode(z, beam=4)).mean() * 1.001
    with pytest.raises(CodecError, match="beam must be at least 1"):
        quantizer.encode(z, beam=0)
    with pytest.raises(CodecError, match="refine at least 0"):
        quantizer.encode(z, refine=-1)
