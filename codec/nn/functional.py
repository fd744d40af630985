"""Convolutions as matrix products of windows: every output frame is the same bits in any company."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from codec.nn.linear import Arrange, exact, packed

BLOCK = 1 << 21  # numbers in windows at a time: what bounds memory where a whole file comes at once


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    before: Tensor | None = None,
    after: Tensor | None = None,
) -> Tensor:
    """`F.conv1d`, whose every output frame is the same number whatever the length, the batch and the threads.

    `F.conv1d` picks another kernel for another size, and the last bits of a frame then depend on how much else is in
    the tensor: enough to flip a code. In inference on the CPU this is a matrix product of the windows instead, by
    `linear`, with the channels innermost in memory: `(B, C, N)` is then a view of `(B, N, C)`.

    Args:
        x: `(B, C, N)`.
        weight: `(C', C / groups, k)`.
        bias: `(C',)`.
        stride: hop of the output.
        dilation: distance of the taps.
        groups: blocked connections.
        before: `(B, C, m)`, what stands before `x`.
        after: `(B, C, n)`, what stands behind it.

    Returns:
        `(B, C', T)`, one frame for every whole window in `before`, `x` and `after`.
    """
    if groups > 1 or not exact(x):
        x = x if before is None else join_time(before, x)
        x = x if after is None else join_time(x, after)
        if not exact(x):
            return F.conv1d(x, weight, bias, stride, 0, dilation, groups)
        y = torch.mkldnn_convolution(
            x.unsqueeze(2), weight.unsqueeze(2), bias, (0, 0), (1, stride), (1, dilation), groups
        )
        return y.squeeze(2)
    taps = weight.shape[-1]
    y = _correlate(x, weight, bias, _taps_inside, taps, stride, dilation, before, after)
    return y.transpose(1, 2)


def transpose_convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    before: Tensor,
    after: Tensor | None = None,
) -> Tensor:
    """`F.conv_transpose1d` of frames with their history, exact as `convolve`.

    Args:
        x: `(B, C, T)`.
        weight: `(C, C', k)`.
        bias: `(C',)`.
        stride: samples per frame.
        before: `(B, C, ceil(k / stride) - 1)`, the frames before `x`, whose own samples are not given out.
        after: `(B, C, n)`, more frames behind `x`.

    Returns:
        `(B, C', stride * (T + n))`.
    """
    if not exact(x):
        x = x if after is None else join_time(x, after)
        past = before.shape[-1]
        y = F.conv_transpose1d(join_time(before, x), weight, bias, stride)
        return y[..., past * stride : (past + x.shape[-1]) * stride]
    if bias is not None:
        bias = bias.repeat(stride)
    # a frame gives its samples in a row, so the result lies in memory as it should
    taps = -(-weight.shape[-1] // stride)
    y = _correlate(x, weight, bias, _phases(stride), taps, 1, 1, before, after)
    return y.reshape(x.shape[0], -1, weight.shape[1]).transpose(1, 2)


def _correlate(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    arrange: Arrange,
    taps: int,
    stride: int,
    dilation: int,
    before: Tensor | None,
    after: Tensor | None,
) -> Tensor:
    """All windows times a matrix `(out, taps * C)`: `(B, T, out)`, without joining what stands around `x` to it."""
    batch, width = x.shape[:2]
    matrix = packed(weight, arrange)
    compiled = matrix.compiled(weight)
    runs = list(_runs(x.transpose(1, 2).contiguous(), before, after, (taps - 1) * dilation + 1, stride))
    y = x.new_empty(batch, sum(count for _, count in runs), matrix.outputs)
    done = 0
    for frames, count in runs:
        out = y[:, done : done + count]
        done += count
        if compiled is not None:
            pieces = {"taps": 1} if dilation == 1 else {"taps": taps, "spread": dilation * width}
            for row, into in zip(frames, out, strict=True):
                compiled.windows(row, into, bias, step=stride * width, **pieces)
            continue
        limit = max(64, BLOCK // (batch * taps * width))
        for first in range(0, count, limit):
            part = out[:, first : first + limit]
            windows = _overlapping(frames[:, first * stride :], part.shape[1], taps, stride, dilation)
            part.copy_(matrix.times(windows.reshape(-1, taps * width), weight, bias).view(part.shape))
    return y


def _runs(
    frames: Tensor, before: Tensor | None, after: Tensor | None, reach: int, stride: int
) -> Iterator[tuple[Tensor, int]]:
    """Windows in three parts: that begin in `before`, lie in `frames` `(B, N, C)`, end in `after`.

    Yields:
        Frames from the first window on, and how many windows lie in them.
    """
    nothing = frames[:, :0]
    first = nothing if before is None else before.transpose(1, 2)
    last = nothing if after is None else after.transpose(1, 2)
    past, length = first.shape[1], frames.shape[1]
    count = max(0, (past + length + last.shape[1] - reach) // stride + 1)
    head = min(count, -(-past // stride))
    body = min(count, max(head, (past + length - reach) // stride + 1))
    if head:
        end = (head - 1) * stride + reach - past
        yield torch.cat([first, frames[:, : max(0, end)], last[:, : max(0, end - length)]], dim=1), head
    if head < body:
        yield frames[:, head * stride - past :], body - head
    if body < count:
        start = body * stride - past
        yield torch.cat([frames[:, start:], last[:, max(0, start - length) :]], dim=1), count - body


def _overlapping(frames: Tensor, count: int, taps: int, stride: int, dilation: int) -> Tensor:
    """The first windows `(B, count, taps, C)` of `(B, N, C)`, a view."""
    batch, _, width = frames.shape
    far, near, _ = frames.stride()
    return frames.as_strided(
        (batch, count, taps, width), (far, stride * near, dilation * near, 1), frames.storage_offset()
    )


def _taps_inside(weight: Tensor) -> Tensor:
    """Weight `(C', C, k)` of a convolution to a matrix `(C', k * C)`."""
    return weight.transpose(1, 2).reshape(weight.shape[0], -1)


@functools.cache
def _phases(stride: int) -> Arrange:
    """Weight `(C, C', k)` of a transposed convolution to a matrix `(stride * C', taps * C)`."""

    def arrange(weight: Tensor) -> Tensor:
        inside, outside, length = weight.shape
        taps = -(-length // stride)
        # a frame's tap j speaks j frames later: the oldest frame of the window has the last tap
        parts = F.pad(weight, (0, taps * stride - length)).view(inside, outside, taps, stride).flip(2)
        return parts.permute(3, 1, 2, 0).reshape(stride * outside, taps * inside)

    return arrange


def pad_time(x: Tensor, left: int, right: int) -> Tensor:
    """Zeros before and behind `x` `(B, C, N)`, in whichever order it lies in memory."""
    if x.is_contiguous():
        return F.pad(x, (left, right))
    return F.pad(x.transpose(1, 2), (0, 0, left, right)).transpose(1, 2)


def join_time(first: Tensor, second: Tensor) -> Tensor:
    """`second` `(B, C, n)` after `first` `(B, C, m)`, in the memory order of `second`."""
    if second.is_contiguous():
        return torch.cat([first, second], dim=-1)
    return torch.cat([first.transpose(1, 2), second.transpose(1, 2)], dim=1).transpose(1, 2)


def newest(first: Tensor, second: Tensor, count: int) -> Tensor:
    """The last `count` values of `second` `(B, C, n)` after `first` `(B, C, m)`."""
    if second.shape[-1] >= count:
        return second[..., second.shape[-1] - count :]
    return join_time(first[..., first.shape[-1] + second.shape[-1] - count :], second)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Full precision for what follows; making a context where there is no autocast would cost a stream 20 us."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
