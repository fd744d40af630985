"""The search on the CPU: the native extension where it is there, plain torch elsewhere."""

import torch
from torch import Tensor

from codec import native
from codec.ops import plain


def rvq_encode(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    """Codes of G independent groups: x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)`` int64."""
    level = native.level()
    if level is None:
        return plain.rvq_encode(x, codebooks, beam)
    groups, rows, dim = x.shape
    stages, size = codebooks.shape[1:3]
    codes = torch.empty((groups, rows, stages), dtype=torch.int64)
    if codes.numel() == 0 or dim == 0:
        return codes.zero_()
    x, codebooks = x.float().contiguous(), codebooks.float().contiguous()
    threads = torch.get_num_threads()
    for g in range(groups):
        pointers = (x[g].data_ptr(), codebooks[g].data_ptr(), codes[g].data_ptr())
        if level.rvq_encode(*pointers, rows, dim, stages, size, beam, threads):
            raise MemoryError(f"not enough memory to encode vectors of width {dim}")
    return codes
