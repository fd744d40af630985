"""Few rows through compiled code: the bits of many rows, whatever the matrix."""

import pytest
import torch
from conftest import LEVELS, use_level

from codec.nn import linear as exact
from codec.nn.linear import FEW, linear
from codec.ops import layers

SHAPES = [(1, 1), (3, 2), (64, 1), (33, 31), (512, 64), (513, 100), (640, 1284), (1025, 40), (2100, 70)]


@pytest.fixture(params=LEVELS)
def compiled(request, monkeypatch):
    """With each level of the extension that this processor can run."""
    with use_level(monkeypatch, request.param):
        assert layers.available()
        yield


def check(inputs, outputs, *, half):
    weight, bias = torch.nn.Parameter(torch.randn(outputs, inputs)), torch.randn(outputs)
    if half:
        weight.data = weight.half().float()
    x = torch.randn(300, inputs)
    whole = linear(x, weight, bias)
    # long sums of random numbers are a few roundings of their length apart
    torch.testing.assert_close(whole, x @ weight.t() + bias, rtol=1e-4, atol=1e-5 * max(100, inputs) ** 0.5)
    for count in (1, 2, 3, 5, FEW, FEW + 3, 40):
        assert torch.equal(linear(x[:count], weight, bias), whole[:count])
    assert torch.equal(linear(x[:1], weight), linear(x, weight)[:1])
    assert linear(x[:0], weight, bias).shape == (0, outputs)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("half", [True, False])
@torch.no_grad()
def test_few_rows_are_the_bits_of_many(compiled, inputs, outputs, half):
    check(inputs, outputs, half=half)


# the framework fuses multiplications and additions, as the lowest level cannot
@pytest.mark.parametrize("compiled", [level for level in LEVELS if level != "baseline"], indirect=True)
def test_this_processor_profits(compiled):
    """Where it does not, all is right and slow."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("only known of AVX2 and AVX-512")
    if not hasattr(torch.backends.mkldnn, "matmul"):
        pytest.skip("the oneDNN of older releases, as of torch 2.6, sums in other orders")
    assert all(exact.compiled_block(inputs, outputs) for inputs, outputs in SHAPES)


@torch.no_grad()
def test_where_the_sums_cannot_be_told_the_framework_does_it(compiled, monkeypatch):
    monkeypatch.setattr(exact, "compiled_block", lambda inputs, outputs: None)
    monkeypatch.setattr(layers.Product, "__call__", None)
    check(1025, 40, half=False)


@torch.no_grad()
def test_without_the_library_the_framework_does_it(monkeypatch):
    with use_level(monkeypatch, "0"):
        assert not layers.available()
        check(640, 128, half=True)


@torch.no_grad()
def test_rows_of_any_number_and_width(compiled):
    for inputs, outputs, count in ((1, 1, 1), (7, 33, 5), (100, 64, 9)):
        matrix, bias = torch.randn(outputs, inputs), torch.randn(outputs)
        x = torch.randn(count, inputs)
        for block in (1, 16, 1 << 62):
            y = layers.Product(matrix, block)(x, bias)
            torch.testing.assert_close(y, x @ matrix.t() + bias)
        halved = matrix.half().float()
        y = layers.Product(halved, 16)(x, None)
        torch.testing.assert_close(y, x @ halved.t())
        # another number in one place, and it is kept in full
        halved[0, 0] = 1 + 2**-20
        torch.testing.assert_close(layers.Product(halved, 16)(x, None), x @ halved.t())
