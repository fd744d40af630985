"""What several training processes must agree on."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def several() -> bool:
    """Whether more than one process trains."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def broadcast(*tensors: Tensor) -> None:
    """Take the values of the first process."""
    if several():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def all_reduce(*tensors: Tensor) -> None:
    """Sum over all processes, in one message."""
    if not several() or not tensors:
        return
    flat = torch.cat([t.flatten().float() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def all_minimum(x: Tensor) -> None:
    """Least over all processes."""
    if several():
        dist.all_reduce(x, dist.ReduceOp.MIN)


def gather(x: Tensor) -> Tensor:
    """Vectors (M, d) of all processes, in one order everywhere; M may differ between them."""
    if not several():
        return x
    size = torch.tensor([len(x)], device=x.device)
    sizes = [torch.zeros_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    padded = F.pad(x, (0, 0, 0, max(int(s) for s in sizes) - len(x)))
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(s)] for part, s in zip(parts, sizes, strict=True)])
