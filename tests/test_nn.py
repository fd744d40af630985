"""Laws of the building blocks: what streams equals what is computed at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codec.errors import CodecError
from codec.models.parts import Decoder, Encoder
from codec.nn.activations import ELU, LeakyReLU, Snake, gelu
from codec.nn.blocks import FrameGroupNorm, MultiReceptiveField, Residual, conv1d, conv_transpose1d
from codec.nn.conv import CausalConv1d, CausalConvTranspose1d, weight_norm
from codec.nn.functional import convolve
from codec.nn.layer import StreamSequential
from codec.nn.linear import Linear
from codec.nn.padded import PaddedConv1d, PaddedConvTranspose1d
from codec.nn.signal import TimeGroupNorm
from codec.nn.state import StreamState
from tests.conftest import in_blocks


def in_chunks(module, x, sizes):
    """Stream `x` through `module` in chunks of the given sizes, whatever remains last."""
    state = StreamState(module, x.shape[0])
    out, start = [], 0
    for size in [*sizes, x.shape[-1]]:
        out.append(module(x[..., start : start + size], state))
        start = min(x.shape[-1], start + size)
    return torch.cat(out, dim=-1)


def lagging(module, x, sizes):
    """Stream `x` in chunks of the given sizes and mark the last one."""
    state = StreamState(module, x.shape[0])
    out, start = [], 0
    for size in sizes:
        out.append(module(x[..., start : start + size], state))
        start = min(x.shape[-1], start + size)
    state.last = True
    out.append(module(x[..., start:], state))
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize(
    ("inside", "outside", "kernel", "stride", "dilation", "groups"),
    [
        (1, 32, 7, 1, 1, 1),
        (32, 64, 4, 2, 1, 1),
        (64, 64, 11, 1, 5, 1),
        (128, 256, 10, 5, 1, 1),
        (64, 32, 1, 1, 1, 1),
        (512, 512, 1, 1, 1, 1),
        (96, 3, 1, 1, 1, 1),
        (48, 48, 7, 1, 3, 48),
        (32, 1, 7, 1, 1, 1),
    ],
)
@torch.no_grad()
def test_a_frame_of_a_convolution_does_not_depend_on_length_or_batch(
    inside, outside, kernel, stride, dilation, groups
):
    weight = torch.randn(outside, inside // groups, kernel)
    bias = torch.randn(outside)
    settings_ = {"stride": stride, "dilation": dilation, "groups": groups}
    x = torch.randn(2, inside, 1200 * stride + kernel * dilation)
    whole = convolve(x, weight, bias, **settings_)
    torch.testing.assert_close(
        whole, torch.conv1d(x, weight, bias, stride, 0, dilation, groups), rtol=1e-4, atol=1e-3
    )
    reach = (kernel - 1) * dilation + 1
    for frames in (1, 2, 3, 5, 8, 11, 13, 31, 64, 257, 1000):
        for start in (0, 3):
            part = x[1:, :, start * stride : start * stride + (frames - 1) * stride + reach]
            alone = convolve(part, weight, bias, **settings_)
            assert torch.equal(alone, whole[1:, :, start : start + frames]), frames


@pytest.mark.parametrize(("inside", "outside"), [(512, 2048), (192, 2048), (2048, 96), (64, 1), (7, 32)])
@torch.no_grad()
def test_a_row_of_a_linear_map_does_not_depend_on_rows_or_threads(inside, outside):
    layer = Linear(inside, outside)
    x = torch.randn(3, 300, inside)
    whole = layer(x)
    torch.testing.assert_close(whole, x @ layer.weight.t() + layer.bias, rtol=1e-4, atol=1e-4)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for rows in (1, 2, 3, 7, 16, 33, 250):
                assert torch.equal(layer(x[1, 5 : 5 + rows]), whole[1, 5 : 5 + rows])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(ELU(), nn.functional.elu), (gelu, nn.functional.gelu), (Snake(40), lambda x: x + x.sin().square())],
)
@torch.no_grad()
def test_an_activation_does_not_depend_on_place_or_threads(ours, theirs):
    x = 3 * torch.randn(2, 40, 3333)
    whole = ours(x)
    torch.testing.assert_close(whole, theirs(x), rtol=1e-5, atol=1e-5)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for first, last in ((0, 3333), (5, 6), (7, 40), (100, 2311)):
                part = x[1:, :, first:last]
                assert torch.equal(ours(part.clone()), whole[1:, :, first:last])
                turned = part.transpose(1, 2).contiguous().transpose(1, 2)
                assert torch.equal(ours(turned), whole[1:, :, first:last])
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_a_changed_weight_is_packed_anew():
    layer = Linear(8, 4)
    x = torch.randn(5, 8)
    layer(x)
    layer.weight.mul_(2)
    torch.testing.assert_close(layer(x), x @ layer.weight.t() + layer.bias)
    layer.weight.data = torch.randn(4, 8)
    torch.testing.assert_close(layer(x), x @ layer.weight.t() + layer.bias)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 12),
    stride=st.integers(1, 6),
    dilation=st.integers(1, 4),
    sizes=st.lists(st.integers(0, 9), max_size=8),
)
@torch.no_grad()
def test_causal_convolutions_stream_exactly(kernel, stride, dilation, sizes):
    if (kernel - 1) * dilation + 1 < stride:
        kernel = stride
    conv = CausalConv1d(3, 5, kernel, stride=stride, dilation=dilation)
    x = torch.randn(2, 3, 40 * stride)
    whole = conv(x)
    assert whole.shape == (2, 5, 40)
    assert torch.equal(in_chunks(conv, x, [size * stride for size in sizes]), whole)


@settings(max_examples=40, deadline=None)
@given(kernel=st.integers(1, 12), stride=st.integers(1, 6), sizes=st.lists(st.integers(0, 9), max_size=8))
@torch.no_grad()
def test_causal_transposed_convolutions_stream_exactly(kernel, stride, sizes):
    conv = CausalConvTranspose1d(3, 5, max(kernel, stride), stride=stride)
    x = torch.randn(2, 3, 40)
    whole = conv(x)
    assert whole.shape == (2, 5, 40 * stride)
    assert torch.equal(in_chunks(conv, x, sizes), whole)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 1), (4, 2), (3, 2), (7, 3), (11, 5), (10, 5), (16, 8)])
def test_lengths_are_exact(causal, kernel, stride):
    for frames in (1, 2, 5):
        down = conv1d(2, 3, kernel, stride=stride, causal=causal)(torch.randn(1, 2, frames * stride))
        up = conv_transpose1d(2, 3, kernel, stride=stride, causal=causal)(torch.randn(1, 2, frames))
        assert down.shape == (1, 3, frames)
        assert up.shape == (1, 3, frames * stride)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.integers(1, 12),
    stride=st.integers(1, 6),
    dilation=st.integers(1, 3),
    causal=st.booleans(),
    mirror=st.booleans(),
    length=st.integers(1, 90),
    sizes=st.lists(st.integers(0, 30), max_size=8),
)
@torch.no_grad()
def test_padded_convolutions_stream_exactly_with_a_lag(
    kernel, stride, dilation, causal, mirror, length, sizes
):
    if (kernel - 1) * dilation + 1 < stride:
        kernel, dilation = stride, 1
    conv = PaddedConv1d(3, 5, kernel, stride=stride, dilation=dilation, causal=causal, mirror=mirror)
    x = torch.randn(2, 3, length)
    whole = conv(x)
    assert whole.shape == (2, 5, -(-length // stride))
    assert torch.equal(lagging(conv, x, sizes), whole)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 12),
    stride=st.integers(1, 6),
    frames=st.integers(1, 30),
    sizes=st.lists(st.integers(0, 9), max_size=8),
)
@torch.no_grad()
def test_padded_transposed_convolutions_stream_exactly_with_a_lag(kernel, stride, frames, sizes):
    conv = PaddedConvTranspose1d(3, 5, max(kernel, stride), stride=stride)
    x = torch.randn(2, 3, frames)
    whole = conv(x)
    assert whole.shape == (2, 5, frames * stride)
    assert torch.equal(lagging(conv, x, sizes), whole)


@torch.no_grad()
def test_a_network_that_looks_ahead_streams_exactly_with_a_lag():
    def branch(kernel, dilation):
        return Residual([LeakyReLU(0.1), conv1d(16, 16, kernel, dilation=dilation, causal=False)])

    net = StreamSequential(
        conv1d(1, 8, 7, causal=False),
        conv1d(8, 16, 4, stride=2, causal=False),
        MultiReceptiveField(branch(k, d) for k, d in ((3, 1), (7, 3))),
        Residual([ELU(), conv1d(16, 16, 3, causal=False)], conv1d(16, 16, 1, causal=False)),
        conv_transpose1d(16, 4, 6, stride=3, causal=False),
    )
    x = torch.randn(2, 1, 400)
    assert torch.equal(lagging(net, x, [2, 0, 38, 100, 6]), net(x))
    state = StreamState(net, 2)
    net(x, state)
    state.active = torch.tensor([True, False])
    with pytest.raises(CodecError, match="one by one"):
        net(x, state)


@torch.no_grad()
def test_norms_over_the_signal_are_measured_in_blocks():
    net = StreamSequential(
        conv1d(1, 16, 7, causal=False),
        TimeGroupNorm(2, 16),
        ELU(),
        conv1d(16, 32, 4, stride=2, causal=False),
        TimeGroupNorm(4, 32),
    )
    for norm in (net[1], net[4]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 1, 3000) * torch.linspace(0, 3, 3000)
    passes = []

    def blocks():
        passes.append(1)
        return x.split(700, dim=-1)

    assert torch.equal(torch.cat(list(in_blocks(net, blocks, 2)), dim=-1), net(x))
    assert len(passes) == 3
    with torch.enable_grad():
        torch.testing.assert_close(net(x), net[1:](net[0](x)).detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(CodecError, match="cannot stream"):
        net(x, StreamState(net, 2))


@pytest.mark.parametrize("causal", [False, True])
def test_receptive_field_is_what_gradients_show(causal):
    down = StreamSequential(
        conv1d(1, 2, 7, causal=causal),
        MultiReceptiveField(
            [Residual([ELU(), conv1d(2, 2, k, dilation=d, causal=causal)]) for k, d in ((3, 5), (5, 1))]
        ),
        conv1d(2, 2, 8, stride=4, causal=causal),
        conv1d(2, 2, 5, stride=3, causal=causal),
    )
    up = StreamSequential(
        conv1d(2, 2, 3, causal=causal),
        conv_transpose1d(2, 2, 5, stride=3, causal=causal),
        Residual([conv1d(2, 2, 3, dilation=2, causal=causal)]),
        conv_transpose1d(2, 1, 8, stride=4, causal=causal),
    )
    encoder, decoder = Encoder().double(), Decoder().double()
    encoder.body, decoder.body = down.double(), up.double()
    encoder.hop = decoder.hop = 12
    for net, unit, x in ((encoder, 12, torch.randn(1, 1, 480)), (decoder, 1, torch.randn(1, 2, 60))):
        x = x.double().requires_grad_()
        frame = 20
        y = net(x)
        part = y[..., frame] if net is encoder else y[..., frame * 12 : (frame + 1) * 12]
        part.square().sum().backward()
        seen = x.grad.abs().sum((0, 1)).nonzero().flatten()
        field = net.receptive_field()
        assert seen[0] == frame * unit - field.back
        assert seen[-1] == (frame + 1) * unit - 1 + field.ahead
        assert (field.ahead == 0) == causal


def test_symmetric_convolutions_are_centred_as_published():
    """With an even difference of kernel and stride they are the framework's own, padded by half of it."""
    x = torch.randn(2, 4, 30)
    conv = conv1d(4, 6, 11, stride=5, causal=False)
    expected = torch.conv1d(x, conv.weight, conv.bias, 5, 3)
    torch.testing.assert_close(conv(x), expected)
    up = conv_transpose1d(4, 6, 11, stride=5, causal=False)
    expected = torch.conv_transpose1d(x, up.weight, up.bias, 5, 3)
    torch.testing.assert_close(up(x), expected)


@torch.no_grad()
def test_a_network_of_causal_blocks_streams_exactly():
    def branch(kernel, dilation):
        return Residual([LeakyReLU(0.1), conv1d(16, 16, kernel, dilation=dilation, causal=True)])

    net = StreamSequential(
        conv1d(1, 8, 7, causal=True),
        conv1d(8, 16, 4, stride=2, causal=True),
        MultiReceptiveField(
            (branch(k, d) for k, d in ((3, 1), (7, 3))), (FrameGroupNorm(2, 16) for _ in range(2))
        ),
        Residual([ELU(), conv1d(16, 16, 3, causal=True)], conv1d(16, 16, 1, causal=True)),
        conv_transpose1d(16, 4, 6, stride=3, causal=True),
    )
    x = torch.randn(2, 1, 400)
    assert torch.equal(in_chunks(net, x, [2, 0, 38, 100, 6]), net(x))


@torch.no_grad()
def test_rows_freeze_restart_and_branch_independently():
    conv = CausalConv1d(1, 2, 5)
    x = torch.randn(2, 1, 12)
    state = StreamState(conv, 2)
    conv(x[..., :6], state)
    twin = state.clone()
    state.active = torch.tensor([True, False])
    conv(torch.randn(2, 1, 3), state)  # the second stream is frozen meanwhile
    state.active = None
    assert torch.equal(conv(x[..., 6:], state)[1], conv(x)[1, :, 6:])
    twin.reset(torch.tensor([True, False]))
    again = conv(x[..., 6:], twin)
    assert torch.equal(again[0], conv(x[..., 6:])[0])
    assert torch.equal(again[1], conv(x)[1, :, 6:])


def test_frame_group_norm_is_group_norm_of_one_frame():
    norm = FrameGroupNorm(4, 16, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 16, 7)
    frames = [nn.functional.group_norm(x[..., t : t + 1], 4, norm.weight, norm.bias, 1e-6) for t in range(7)]
    torch.testing.assert_close(norm(x), torch.cat(frames, dim=-1))


def test_weight_norm_keeps_initial_weights():
    net = StreamSequential(conv1d(2, 3, 5, causal=True), ELU(), conv_transpose1d(3, 2, 4, causal=False))
    before = [net[0].weight.detach().clone(), net[2].weight.detach().clone()]
    weight_norm(net)
    assert "0.parametrizations.weight.original0" in net.state_dict()
    torch.testing.assert_close(net[0].weight, before[0])
    torch.testing.assert_close(net[2].weight, before[1])


@pytest.mark.parametrize("fused", [False, True])
def test_weights_that_an_optimiser_moved_are_not_the_packed_ones(fused: bool) -> None:
    """torch's fused optimisers write past the count of a tensor's writes."""
    layer, conv = Linear(300, 40), CausalConv1d(40, 30, 3)
    x = torch.randn(1, 500, 300)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return conv(layer(x).transpose(1, 2))

    before = run()
    optimiser = torch.optim.Adam([*layer.parameters(), *conv.parameters()], lr=0.1, fused=fused)
    conv(layer(x).transpose(1, 2)).square().mean().backward()
    optimiser.step()
    after = conv(layer(x).transpose(1, 2)).detach()
    assert not torch.allclose(before, after, atol=0.1)
    torch.testing.assert_close(run(), after, rtol=1e-3, atol=1e-4)


def test_a_weight_at_the_address_of_another_is_not_taken_for_it() -> None:
    layer, x = Linear(64, 64), torch.randn(5, 64)
    with torch.inference_mode():
        layer(x)
    other = Linear(64, 64)
    layer.load_state_dict(other.state_dict(), assign=True)
    layer.weight.data.mul_(2)
    layer.eval()
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
