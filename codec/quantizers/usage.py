"""Usage and perplexity of codebooks: one definition for training, evaluation and reports."""

from collections.abc import Sequence

import torch
from torch import Tensor

#: Codebooks up to this size are counted in full; of larger ones only the codes that occur are.
COUNTED = 1 << 16


def usage_entropy(counts: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Usage, the share of the codes that occur, and entropy in nats of how often each code occurs.

    Args:
        counts: (V,) floating point.
        least: codes with no more than this count as unused, for running means.
    """
    p = counts / counts.sum().clamp_min(1e-12)
    return (counts > least).float().mean(), torch.special.entr(p).sum()


def measure(codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Usage and entropy of codes (M,) out of ``size``; codes below 0, those left out, do not count."""
    codes = codes[codes >= 0]
    if size <= COUNTED:
        return usage_entropy(torch.bincount(codes, minlength=size).float())
    counts = torch.unique(codes, return_counts=True)[1].float()
    usage = counts.new_tensor(len(counts) / size)
    return usage, usage_entropy(counts)[1]


def code_metrics(codes: Tensor, sizes: Sequence[int]) -> dict[str, Tensor]:
    """The metrics of `name_metrics` of codes (B, T, K)."""
    return name_metrics(
        [measure(row.flatten(), size) for row, size in zip(codes.unbind(2), sizes, strict=False)]
    )


def name_metrics(measured: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Metrics from (usage, entropy) of each codebook: the means, and ``usage/0``, ``perplexity/0`` and so on."""
    if not measured:
        return {}
    usage, entropy = (torch.stack(values).detach() for values in zip(*measured, strict=True))
    perplexity = entropy.exp()
    metrics = {"usage": usage.mean(), "perplexity": perplexity.mean()}
    for k in range(len(measured)):
        metrics[f"usage/{k}"], metrics[f"perplexity/{k}"] = usage[k], perplexity[k]
    return metrics
