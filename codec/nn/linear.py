"""Linear maps whose rows do not depend on how many rows come with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` that gives one row the same bits alone as in company (float32, CPU, inference).

    Matrix libraries switch to another summation order when a thread gets fewer than four rows, so one streamed frame
    would differ in its last bits from the same frame inside a file, and a code on the boundary would flip. Small
    inputs are filled up with rows of zeros. Training, other types and other devices are left alone.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    flat = x.reshape(
        -1, weight.shape[1]
    )  # one matrix, or batched products with yet another order may be chosen
    rows = flat.shape[0]
    threads = torch.get_num_threads()
    missing = -rows % (4 * threads) if rows < 16 * threads else 0
    flat = F.pad(flat, (0, 0, 0, missing)) if missing else flat.contiguous()
    return F.linear(flat, weight, bias)[:rows].view(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """`nn.Linear` computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return linear(x, self.weight, self.bias)
