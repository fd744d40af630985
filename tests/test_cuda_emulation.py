"""The CUDA sources, run on the processor by an emulation of the hardware, against the specification.

What only a GPU can show (its instructions, its speed) is tested in test_ops_cuda.py.
"""

import contextlib
import ctypes
import random
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codec.errors import BuildError
from codec.ops import cuda, kernel, reference

HEADER = Path(__file__).with_name("cuda_emulation.h")
A100, H100, SMALL = (108, 163 << 10, 8), (132, 227 << 10, 9), (1, 99 << 10, 8)  # as `use_device` finds them
BUSY = (1, 227 << 10, 8)  # one processor, so that any number of vectors is many


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    sources = kernel.cuda_recipe(("80",)).sources
    flags = ("-std=c++17", "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-x", "c++")
    define = f'-DRVQ_EMULATION="{HEADER}"'
    compilers = ("g++", "clang++", "c++")
    try:
        path = kernel.build(kernel.Recipe("emulation", (*sources, HEADER), compilers, (*flags, define), ""))
    except BuildError as error:
        pytest.skip(f"no C++ compiler: {error}")
    return kernel.declare_cuda(ctypes.CDLL(str(path)))


def emulated(
    library: ctypes.CDLL, x: Tensor, codebooks: Tensor, beam: int = 1, device: tuple[int, int, int] = BUSY
) -> Tensor:
    groups, rows, dim = x.shape
    stages, size = codebooks.shape[1:3]
    library.codec_emulation_device(*device)
    guard = 64
    whole = torch.full((groups * rows * stages + guard,), -1)
    workspace = torch.empty(library.codec_rvq_workspace(groups, dim, stages, size, beam), dtype=torch.uint8)
    assert len(workspace) > 0
    pointers = (t.data_ptr() for t in (x, codebooks, whole, workspace))
    error = library.codec_rvq_encode_cuda(*pointers, groups, rows, dim, stages, size, beam, 0, None)
    assert error is None, error
    assert bool((whole[-guard:] == -1).all())
    return whole[:-guard].view(groups, rows, stages)


KINDS = ("normal", "grid", "duplicates", "oddities", "close", "coherent", "far", "huge", "tiny", "mixed")


def draw(
    kind: str, groups: int, rows: int, dim: int, stages: int, size: int, seed: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, rows, dim, generator=generator)
    codebooks = torch.randn(groups, stages, size, dim, generator=generator) * 0.7
    if kind == "grid":  # exact ties everywhere
        return x.round(), codebooks.round()
    if kind == "duplicates":
        codebooks[:, 0, size // 2] = codebooks[:, 0, 0]
        codebooks[:, -1] = 0
        x[:, 0] = 0
        x[:, -1] = codebooks[:, 0, -1]  # nothing is left after one stage
    elif kind == "oddities":
        codebooks[:, 0, size // 2] = torch.inf
        codebooks[:, -1, 0, 0] = torch.nan
        x[:, rows // 2, 0], x[:, rows // 3, -1] = torch.nan, -torch.inf
    elif kind == "close":  # what bfloat16 cannot tell apart, and float32 hardly
        codebooks[:, 0] = codebooks[:, 0, :1] + codebooks[:, 0] * 2.0**-14
    elif kind == "coherent":  # all elements lose the same in rounding to bfloat16, the worst there is
        steps = torch.randperm(size, generator=generator) / size
        codebooks[:, 0] = (1 + steps * 2**-7)[:, None]
        x = 1 + torch.rand(groups, rows, 1, generator=generator).expand(-1, -1, dim) * 2.0**-7
    elif kind == "far":
        return x + 300, codebooks + 300
    elif kind in ("huge", "tiny"):
        scale = {"huge": 1e25, "tiny": 1e-30}[kind]
        return x * scale, codebooks * scale
    elif kind == "mixed":  # rows and codes of very different size
        x *= 10 ** torch.randint(-20, 18, (groups, rows, 1), generator=generator)
        codebooks *= 10 ** torch.randint(-20, 18, (groups, stages, size, 1), generator=generator)
    return x.contiguous(), codebooks


def check(
    library: ctypes.CDLL, x: Tensor, codebooks: Tensor, beam: int, device: tuple[int, int, int]
) -> None:
    expected = reference.rvq_encode(x, codebooks, beam)
    assert torch.equal(emulated(library, x, codebooks, beam, device), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_equal_the_specification(library: ctypes.CDLL, kind: str) -> None:
    chance = random.Random(kind)
    slow = kind in ("far", "huge", "tiny", "mixed")  # no score tells codes apart: all distances are evaluated
    for seed in range(16):
        # the widths where one kernel ends and the next begins, and any
        dim = chance.choice(
            [1, 3, 8, 11, 12, 16, 27, 28, 43, 44, 64, 75, 76, 128, 139, 140, chance.randint(1, 200)]
        )
        size = chance.choice(
            [1, 2, 7, chance.randint(2, 40)] + ([] if slow else [128, 129, chance.randint(2, 300)])
        )
        beam = chance.choice([1, 1, 1, 2, 3, 4, 16])
        rows = chance.choice([1, 2, 5, chance.randint(3, 20)] + ([] if slow or beam > 1 else [40, 150]))
        groups, stages = chance.choice([(1, 3), (1, 2), (2, 2)])
        device = chance.choice([A100, H100, BUSY, BUSY])
        order = chance.randint(0, 1000)
        library.codec_emulation_order(order)
        x, codebooks = draw(kind, groups, rows, dim, stages, size, seed)
        try:
            check(library, x, codebooks, beam, device)
        except AssertionError:
            pytest.fail(
                f"{groups}x{rows}x{dim} {stages}x{size} beam {beam} {device} order {order} seed {seed}"
            )


@pytest.mark.parametrize(
    ("rows", "dim", "device"),
    [(40, dim, device) for dim in (8, 16, 32, 64, 128, 256, 512, 523) for device in (BUSY, A100)]
    + [(2, 8, H100), (1, 523, H100)],
)
def test_every_kernel(library: ctypes.CDLL, rows: int, dim: int, device: tuple[int, int, int]) -> None:
    x, codebooks = draw("normal", 1, rows, dim, 2, 100, dim)
    for order in (0, 1):  # threads in turn, and shuffled
        library.codec_emulation_order(order)
        check(library, x, codebooks, 1, device)


def test_largest_books(library: ctypes.CDLL) -> None:
    x, codebooks = draw("normal", 1, 1, 2, 2, 65_536, 0)
    codebooks[0, :, -1] = 0
    codebooks[0, 0, -1] = x[0, 0]  # nothing is left over: the last code is the nearest of both codebooks
    assert emulated(library, x, codebooks, 2, BUSY).tolist() == [[[65_535, 65_535]]]


def test_most_stages_with_the_widest_beam(library: ctypes.CDLL) -> None:
    x, codebooks = draw("normal", 1, 2, 8, 32, 10, 0)
    check(library, x, codebooks, 16, BUSY)


def test_second_scan_finds_what_the_first_does_not_remember(library: ctypes.CDLL) -> None:
    # all codes that can be near belong to one thread, which remembers two of them
    for dim, step in ((8, 8), (64, 8)):
        x, codebooks = draw("normal", 1, 40, dim, 1, 256, 0)
        near = torch.arange(0, 256, step)
        codebooks[0, 0] += 5
        codebooks[0, 0, near] = 1 + torch.randn(len(near), dim) * 2.0**-12
        check(library, torch.ones(1, 40, dim) + x * 2.0**-12, codebooks, 1, BUSY)
        check(library, torch.ones(1, 10, dim) + x[:, :10] * 2.0**-12, codebooks, 8, BUSY)


def test_sums_for_training(library: ctypes.CDLL) -> None:
    x, codebooks = draw("normal", 2, 50, 37, 3, 20, 0)
    codes = reference.rvq_encode(x, codebooks)
    quantized, counts, sums = (torch.zeros(s) for s in ((2, 50, 37), (2, 3, 20), (2, 3, 20, 37)))
    pointers = (t.data_ptr() for t in (x, codebooks, codes, quantized, counts, sums))
    library.codec_emulation_device(*A100)
    assert library.codec_rvq_accumulate(*pointers, 2, 50, 37, 3, 20, 0, None) is None
    expected = reference.statistics(x, codebooks, codes)
    assert torch.equal(quantized, expected[0])
    assert torch.equal(counts, expected[1])
    assert torch.allclose(sums, expected[2], atol=1e-5)


def test_shape_depends_on_the_work_and_on_the_device(library: ctypes.CDLL) -> None:
    launched = (ctypes.c_int64 * 3)()

    def launch(rows: int, dim: int, device: tuple[int, int, int]) -> tuple[int, ...]:
        x, codebooks = draw("normal", 1, rows, dim, 1, 2, 0)
        check(library, x, codebooks, 1, device)
        library.codec_emulation_launched(launched)
        assert launched[2] <= device[1]
        return tuple(launched)[:2]

    assert launch(300, 128, BUSY) == (3, 128)  # 128 vectors to a block
    assert launch(300, 128, SMALL) == (19, 256)  # does not fit: 16
    assert launch(300, 128, A100) == (19, 256)  # too little work for 108 processors
    assert launch(1, 128, H100) == (8, 1024)  # a cluster
    assert launch(17, 128, H100) == (2, 256)  # more than there are clusters


def test_what_there_is_no_kernel_for(library: ctypes.CDLL) -> None:
    workspace = library.codec_rvq_workspace
    assert workspace(1, 523, 32, 65_536, 16) > 0
    assert [workspace(1, 524, 8, 10, 1), workspace(1, 8, 33, 10, 1), workspace(1, 8, 8, 10, 17)] == [0, 0, 0]
    x, codebooks = draw("normal", 1, 4, 512, 1, 2, 0)
    library.codec_emulation_device(*SMALL)
    room = torch.empty(workspace(1, 512, 1, 2, 1), dtype=torch.uint8)
    pointers = (t.data_ptr() for t in (x, codebooks, torch.zeros(4, dtype=torch.int64), room))
    error = library.codec_rvq_encode_cuda(*pointers, 1, 4, 512, 1, 2, 1, 0, None)
    assert b"too little shared memory" in error


@pytest.fixture
def installed(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator takes this for a GPU."""
    monkeypatch.setattr(cuda, "_library", lambda x: library)
    monkeypatch.setattr(cuda, "_current", lambda device: contextlib.nullcontext((0, None)))
    monkeypatch.delenv("CODEC_CUDA", raising=False)
    library.codec_emulation_device(*H100)
    cuda._failed.cache_clear()


@pytest.mark.usefixtures("installed")
def test_operator_hands_over_what_it_is_given() -> None:
    x, codebooks = draw("normal", 2, 9, 16, 3, 20, 0)
    x, codebooks = (
        x.to(torch.bfloat16).transpose(1, 2).contiguous().transpose(1, 2),
        codebooks[:, :1].expand(-1, 3, -1, -1),
    )
    codes = cuda.rvq_encode(x, codebooks, 2)
    assert torch.equal(codes, reference.rvq_encode(x, codebooks, 2))
    codes = cuda.rvq_encode(x, codebooks, 1)
    for ours, theirs in zip(
        cuda.statistics(x, codebooks, codes), reference.statistics(x, codebooks, codes), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert cuda.rvq_encode(x[:, :0], codebooks, 1).shape == (2, 0, 3)
    assert cuda.statistics(x[:, :0], codebooks, codes[:, :0])[1].sum() == 0


@pytest.mark.usefixtures("installed")
def test_operator_does_without_the_kernel_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebooks = draw("normal", 1, 3, 600, 1, 5, 0)
    expected = reference.rvq_encode(x, codebooks)
    with pytest.warns(UserWarning, match="no kernel for 1 codebooks of width 600"):
        assert torch.equal(cuda.rvq_encode(x, codebooks, 1), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(cuda.rvq_encode(x, codebooks, 1), expected)  # once is enough
    monkeypatch.setenv("CODEC_CUDA", "require")
    cuda._failed.cache_clear()
    with pytest.raises(BuildError, match="CODEC_CUDA=require: there is no kernel"):
        cuda.rvq_encode(x, codebooks, 1)
