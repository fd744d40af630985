"""The search on a GPU: the CUDA kernel where there is one for the problem, plain torch elsewhere.

Work is queued on torch's current stream and nothing is waited for, so that it can be part of a CUDA graph.
"""

import contextlib
import ctypes
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from codec.errors import BuildError
from codec.ops import kernel, plain, reference


def rvq_encode(x: Tensor, codebooks: Tensor, beam: int) -> Tensor:
    """Codes of G independent groups: x ``(G, M, D)``, codebooks ``(G, K, V, D)`` -> ``(G, M, K)`` int64."""
    groups, rows, dim = x.shape
    stages, size = codebooks.shape[1:3]
    codes = torch.empty((groups, rows, stages), dtype=torch.int64, device=x.device)
    if codes.numel() == 0 or dim == 0:
        return codes.zero_()
    library = _library(x)
    if library is None:
        return plain.rvq_encode(x, codebooks, beam)
    room = library.codec_rvq_workspace(groups, dim, stages, size, beam)
    if room:
        workspace = torch.empty(room, dtype=torch.uint8, device=x.device)
        tensors = (x.float().contiguous(), codebooks.float().contiguous(), codes, workspace)
        if _queue(library.codec_rvq_encode_cuda, tensors, (groups, rows, dim, stages, size, beam)):
            return codes
    else:
        _failed(f"there is no kernel for {stages} codebooks of width {dim}")
    return plain.rvq_encode(x, codebooks, beam)


def statistics(x: Tensor, codebooks: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.statistics`; sums in no fixed order, unless torch is told to be deterministic."""
    groups, rows, dim = x.shape
    stages, size = codebooks.shape[1:3]
    library = _library(x)
    if library is None or x.numel() == 0 or stages == 0 or torch.are_deterministic_algorithms_enabled():
        return reference.statistics(x, codebooks, codes)
    quantized = torch.empty(x.shape, device=x.device)
    counts = torch.zeros(codebooks.shape[:3], device=x.device)
    sums = torch.zeros(codebooks.shape, device=x.device)
    tensors = (x.float().contiguous(), codebooks.float().contiguous(), codes, quantized, counts, sums)
    if _queue(library.codec_rvq_accumulate, tensors, (groups, rows, dim, stages, size)):
        return quantized, counts, sums
    return reference.statistics(x, codebooks, codes)


def _library(x: Tensor) -> ctypes.CDLL | None:
    return kernel.cuda_library(torch.cuda.get_device_capability(x.device))


def _queue(function: Callable[..., bytes | None], tensors: Sequence[Tensor], sizes: Sequence[int]) -> bool:
    """Whether the work could be queued."""
    with _current(tensors[0].device) as (index, stream):
        error = function(*(t.data_ptr() for t in tensors), *sizes, index, stream)
    if error is not None:
        _failed(error.decode())
    return error is None


@contextlib.contextmanager
def _current(device: torch.device) -> Iterator[tuple[int, int]]:
    """Index and stream of a device, which is the current one inside."""
    with torch.cuda.device(device):
        yield device.index, torch.cuda.current_stream(device).cuda_stream


@functools.cache
def _failed(reason: str) -> None:
    """One warning for each reason, or an error where the kernel is required."""
    if kernel.mode() == "require":
        raise BuildError(f"CODEC_CUDA=require: {reason}")
    warnings.warn(f"the CUDA search is not used, plain torch is: {reason}", stacklevel=3)
