"""Quantizers without a codebook: integer arithmetic, enumeration, levels."""

from itertools import product
from math import prod
from random import Random

import pytest
import torch

from codec.errors import ConfigError
from codec.quantizers import (
    BSQ,
    FSQ,
    IFSQ,
    LFQ,
    PVQ,
    QLAE,
    Bernoulli,
    Lattice,
    Quantizer,
    ResidualFSQ,
    Scalar,
    TurboQuant,
)
from codec.quantizers.pvq import Pyramid
from codec.quantizers.turboquant import lloyd_max

EXHAUSTIVE = [
    [8, 6, 5],
    [8, 5, 5, 5],
    [7, 5, 5, 5, 5],
    [8, 8, 8, 6, 5],
    [8, 8, 8, 5, 5, 5],
    [4] * 8,
    [2] * 16,
    [19, 19],
]
SAMPLED = [[4] * 16, [2] * 32, [1625, 1625, 1625], [255] * 4]


@pytest.mark.parametrize("levels", EXHAUSTIVE + SAMPLED, ids=str)
def test_index_to_digits_to_index(levels: list[int]) -> None:
    quantizer = FSQ(3, levels)
    size = prod(levels)
    if size <= 65_536:
        codes = torch.arange(size)[:, None]
    else:
        edges = torch.tensor([0, 1, size // 2, size - 2, size - 1])
        codes = torch.cat([edges, torch.randint(size, (100_000,))])[:, None]
    digits = quantizer.unpack(codes)
    assert (digits >= 0).all()
    assert (digits < torch.tensor(levels)).all()
    assert torch.equal(quantizer.pack(digits), codes)
    if size <= 65_536:
        assert len(torch.unique(digits, dim=0)) == size
    # every code's own vector has that code, where the input can reach it
    values = quantizer._values(digits)
    middle = torch.tensor(levels) // 2
    assert torch.equal((values * middle).round().long() + middle, digits)


def test_index_to_digits_to_index_of_any_levels() -> None:
    random = Random(0)
    for _ in range(100):
        levels = [random.randint(2, 40)]
        while prod(levels) < 65_536:
            levels.append(random.randint(2, 12))
        levels = levels[:-1] or levels
        quantizer = Scalar(3, levels)
        codes = torch.arange(prod(levels))[:, None]
        assert torch.equal(quantizer.pack(quantizer.unpack(codes)), codes)


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 8])
def test_every_code_of_turboquant_comes_back(bits: int) -> None:
    width = 16 // bits
    quantizer = TurboQuant(width, bits).eval()
    codes = torch.arange(quantizer.codebook_sizes[1])[:, None]
    digits = quantizer.unpack(codes)
    assert digits.shape == (len(codes), width)
    assert torch.equal(quantizer.pack(digits, 1), codes)
    assert len(torch.unique(digits, dim=0)) == len(codes)


def test_every_code_of_each_scalar_quantizer_is_reached_and_kept() -> None:
    torch.manual_seed(0)
    for quantizer in (
        FSQ(3, [5, 4, 3]),
        IFSQ(3, [5, 4, 3]),
        Lattice(3, [5, 4, 3]),
        QLAE(3, [5, 4, 3]),
        LFQ(3, 3),
    ):
        quantizer.eval()
        z = torch.randn(1, 3, 20_000) * 2
        codes = quantizer.encode(z)
        assert len(torch.unique(codes)) == quantizer.codebook_sizes[0]
        if isinstance(quantizer, Lattice | QLAE):  # without a bound, values are their own nearest values
            every = torch.arange(quantizer.codebook_sizes[0])[None, None]
            assert torch.equal(quantizer.encode(quantizer.decode(every)), every)


def test_fsq_centres_an_even_number_of_levels() -> None:
    for cls in (FSQ, IFSQ):
        quantizer = cls(1, [8]).eval()
        z = torch.linspace(-9, 9, 1999)[None, None]
        bounded = quantizer._bound(z[0].t())
        assert quantizer._bound(torch.zeros(1, 1)).abs() < 1e-5
        assert (bounded.diff(dim=0) >= 0).all()
        assert quantizer.encode(z).unique().tolist() == list(range(8))


def test_ifsq_maps_a_gaussian_to_a_uniform_variable() -> None:
    z = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    uniform = torch.linspace(-1, 1, 20_000)
    off = {}
    for cls in (FSQ, IFSQ):
        quantizer = cls(1, [9])
        bounded = (quantizer._bound(z) / quantizer.reach).flatten().sort().values
        off[cls] = (bounded - uniform).abs().max()
    assert off[IFSQ] < 0.05
    assert off[FSQ] > 0.08


def test_gradient_of_fsq_is_that_of_its_bound() -> None:
    quantizer, z = FSQ(2, [8, 5]), torch.randn(1, 2, 30, requires_grad=True)
    quantizer(z).quantized.sum().backward()
    other = z.detach().clone().requires_grad_()
    (quantizer._bound(other[0].t()) / torch.tensor([4, 2])).sum().backward()
    assert torch.allclose(z.grad, other.grad, atol=1e-6)


def test_binary_quantizers() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 8, 500)
    lfq, bsq, bernoulli = LFQ(8, 4, 2).eval(), BSQ(8, 4, 2).eval(), Bernoulli(8, 4, 2)
    assert torch.equal(lfq(z).quantized, torch.where(z > 0, 1.0, -1.0))
    assert torch.allclose(bsq(z).quantized.norm(dim=1), torch.full((2, 500), 2**0.5))
    drawn = torch.stack([bernoulli(z).quantized for _ in range(400)])
    assert (((drawn + 1) / 2).mean(0) - z.sigmoid()).abs().mean() < 0.03
    bernoulli.eval()
    assert torch.equal(bernoulli(z).quantized, lfq(z).quantized)


def test_the_entropy_loss_of_bits_is_the_plain_formula() -> None:
    torch.manual_seed(0)
    quantizer, z = LFQ(6, 3, 2, temperature=2.0), torch.randn(1, 6, 50)
    expected = 0.0
    for half in z[0].split(3):
        codes = torch.tensor(list(product((-1.0, 1.0), repeat=3)))
        p = (2 * half.t() @ codes.t() / 2.0).softmax(1)
        expected += (torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()) / 6
    found = quantizer(z).losses["entropy"]
    joint = 6 <= 8  # six bits are one group: the batch entropy is that of all six together
    assert joint
    codes = torch.tensor(list(product((-1.0, 1.0), repeat=6)))
    p = (2 * z[0].t() @ codes.t() / 2.0).softmax(1)
    whole = (torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()) / 6
    assert torch.allclose(found, whole, atol=1e-5)
    assert whole >= expected - 1e-5  # dependence between codebooks can only make the joint entropy smaller


@pytest.mark.parametrize(("dim", "pulses"), [(1, 1), (1, 5), (2, 3), (3, 4), (5, 3), (4, 6), (8, 4)])
def test_pyramid_numbers_every_vector_once(dim: int, pulses: int) -> None:
    pyramid = Pyramid(dim, pulses)
    every = pyramid.unrank(torch.arange(pyramid.size))
    assert (every.abs().sum(1) == pulses).all()
    assert torch.equal(pyramid.rank(every), torch.arange(pyramid.size))
    if (2 * pulses + 1) ** dim <= 200_000:
        counted = sum(sum(map(abs, y)) == pulses for y in product(range(-pulses, pulses + 1), repeat=dim))
        assert pyramid.size == counted == len(torch.unique(every, dim=0))


def test_large_pyramids_are_numbered_exactly() -> None:
    pyramid = Pyramid(24, 8)
    assert 1 << 29 < pyramid.size <= 1 << 32
    codes = torch.cat([torch.tensor([0, pyramid.size - 1]), torch.randint(pyramid.size, (5000,))])
    assert torch.equal(pyramid.rank(pyramid.unrank(codes)), codes)


def test_pyramid_projection_is_close_to_the_best_direction() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(4, 5)
    every = pyramid.unrank(torch.arange(pyramid.size)).float()
    every = every / every.norm(dim=1, keepdim=True)
    x = torch.randn(300, 4)
    found = pyramid.project(x).float()
    cosine = (x * found).sum(1) / found.norm(dim=1)
    best = (x @ every.t()).amax(1)
    assert (found.abs().sum(1) == 5).all()
    assert (cosine >= best - 1e-4).float().mean() > 0.8
    assert ((best - cosine) / x.norm(dim=1)).max() < 0.1
    assert pyramid.project(torch.zeros(1, 4)).abs().sum() == 5


def test_lloyd_max_levels_are_the_published_ones() -> None:
    # J. Max, Quantizing for minimum distortion (1960): 2, 4 and 8 levels
    assert lloyd_max(2) == pytest.approx([-0.7980, 0.7980], abs=1e-3)
    assert lloyd_max(4) == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=1e-3)
    assert lloyd_max(8)[4:] == pytest.approx([0.2451, 0.7560, 1.344, 2.152], abs=1e-3)


def test_turboquant_is_as_good_as_the_paper_says() -> None:
    """On vectors of any kind: mean squared errors 0.36, 0.117, 0.03, 0.009 for 1 to 4 bits (arXiv 2504.19874)."""
    z = torch.randn(2, 64, 2000, generator=torch.Generator().manual_seed(0))
    z = z * torch.linspace(0.1, 30, 64)[:, None]
    for bits, expected in ((1, 0.363), (2, 0.1175), (3, 0.0345), (4, 0.0095)):
        quantizer = TurboQuant(64, bits).eval()
        found = quantizer(z).quantized
        error = ((found - z).square().sum(1) / z.square().sum(1)).mean()
        assert error < 1.03 * expected + 2e-4


def test_residual_fsq_gains_from_every_stage() -> None:
    torch.manual_seed(0)
    z = torch.randn(4, 6, 500)
    errors = {}
    for robust in (False, True):
        quantizer = ResidualFSQ(6, [5, 5, 5], 3, groups=2, robust=robust)
        quantizer(z)
        quantizer.eval()
        target = z if robust else z.tanh()
        errors[robust] = [
            (quantizer(z, num_codebooks=n).quantized - target).square().mean() for n in (2, 4, 6)
        ]
        assert errors[robust][1] < 0.5 * errors[robust][0]
        assert errors[robust][2] < 0.5 * errors[robust][1]


@pytest.mark.parametrize("level", [2, 3, 4, 5, 8])
def test_levels_start_where_they_suit_the_data(level: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(4, 6, 5000) * torch.linspace(0.1, 5, 6)[:, None]
    # Max (1960): the least error of so many evenly spaced levels, for a variance of one
    best = {2: 0.3634, 3: 0.1902, 4: 0.1188, 5: 0.0822, 8: 0.0374}[level]
    made: list[Quantizer] = [QLAE(6, [level] * 6), ResidualFSQ(6, [level] * 3, 1, groups=2)]
    if level % 2:
        made.append(Lattice(6, [level] * 6))  # with zero among an even number of points it is lopsided
    for quantizer in made:
        quantizer(z)
        error = (quantizer.eval()(z).quantized - z).square().mean((0, 2)) / z.var((0, 2))
        assert (error < 1.1 * best).all()


def test_vectors_are_kept_in_slices_of_their_books() -> None:
    quantizer = PVQ(12, 3, pulses=3)
    quantizer(torch.randn(2, 12, 300))
    quantizer.eval()
    z = torch.randn(1, 12, 9)
    first = quantizer(z, num_codebooks=1).quantized
    assert (first[:, 4:] == 0).all()
    assert torch.equal(first[:, :4], quantizer(z).quantized[:, :4])


def test_settings_that_make_no_sense() -> None:
    for make, words in (
        (lambda: FSQ(4, [1, 5]), "at least 2 levels"),
        (lambda: FSQ(4, [4] * 17), "too large"),
        (lambda: FSQ(4, [5, 5], 2, prefixes=[1]), "prefixes must ascend to 2"),
        (lambda: FSQ(4, [5, 5], 2, prefixes=[2, 1, 2]), "prefixes must ascend"),
        (lambda: PVQ(10, 3), "equal groups"),
        (lambda: PVQ(64, 1, pulses=20), "more than 2\\^32"),
        (lambda: TurboQuant(8, 9), "1 to 8 bits"),
        (lambda: LFQ(4, 4, dropout=1.5), "from 0 to 1"),
    ):
        with pytest.raises(ConfigError, match=words):
            make()
    assert issubclass(FSQ, Scalar)
