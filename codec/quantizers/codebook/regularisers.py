"""Regularisers of a codebook, as loss terms: orthogonal codes, entropy, Wasserstein distance to the data."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.quantizers.codebook.assignment import scores

_BLOCK = 1 << 22  # elements of a (vectors, codes) matrix; more vectors are sampled down to it


class Regulariser(nn.Module, ABC):
    """A loss of queries (M, d) and codes (V, d)."""

    def __init__(self, size: int) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """An unweighted scalar."""


class Orthogonal(Regulariser):
    """Code vectors at right angles: |C C^T - I|^2 / n^2 of n normalised codes (Shin et al., arXiv 2112.00384).

    Args:
        size: number of codes V.
        sample: at most this many codes are looked at in one step.
    """

    def __init__(self, size: int, sample: int = 128) -> None:
        super().__init__(size)
        self.sample = sample

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        chosen = torch.randperm(len(codes), device=codes.device)[: self.sample]
        unit = F.normalize(codes[chosen], dim=1)
        return (unit @ unit.t() - torch.eye(len(unit), device=unit.device)).square().mean()


class Entropy(Regulariser):
    """Sure about each vector, even over all of them: E[H(p)] - H(E[p]), p = softmax of -distance^2 / temperature.

    The entropy loss of MAGVIT-v2 (arXiv 2310.05737) and IBQ (arXiv 2412.02692).

    Args:
        size: number of codes V.
        temperature: 0.01 in both papers, for codes of about unit length.
    """

    def __init__(self, size: int, temperature: float = 0.01) -> None:
        super().__init__(size)
        self.temperature = temperature

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        x = _sample(x, len(codes))
        log_p = (2 * scores(x, codes) / self.temperature).log_softmax(1)
        p = log_p.exp()
        return -(p * log_p).sum(1).mean() - torch.special.entr(p.mean(0).clamp_min(1e-10)).sum()


class Wasserstein(Regulariser):
    """Entropic transport cost between the batch and the weighted codes (VQ-WAE, arXiv 2302.05917).

    The weights of the codes are learned, and held near uniform by their Kullback-Leibler divergence.

    Args:
        size: number of codes V.
        epsilon: entropic smoothing, relative to the mean cost.
        iterations: Sinkhorn iterations.
        prior: weight of the divergence.
    """

    def __init__(self, size: int, epsilon: float = 0.05, iterations: int = 20, prior: float = 1.0) -> None:
        super().__init__(size)
        self.epsilon, self.iterations, self.prior = epsilon, iterations, prior
        self.logits = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        x = _sample(x, len(codes))
        cost = (x.square().sum(1, keepdim=True) - 2 * scores(x, codes)) / x.shape[1]
        log_pi = self.logits.log_softmax(0)
        pi = log_pi.exp()
        with torch.no_grad():
            smooth = self.epsilon * cost.mean().clamp_min(1e-12)
            # rows and columns are scaled anyway, so their minima may go: nothing that matters underflows
            kernel = cost / smooth
            kernel = kernel - kernel.amin(1, keepdim=True)
            least = kernel.amin(0)
            kernel = (least - kernel).exp()
            column = pi
            for _ in range(self.iterations):
                row = 1 / (kernel @ column).clamp_min(1e-30) / len(x)
                column = pi / (row @ kernel).clamp_min(1e-30)
            plan = row[:, None] * kernel * column
            potential = smooth * ((column / pi).log() + least)
        # the derivative of the transport cost is the plan for the costs and the potential for the weights
        transport = (plan * cost).sum() + (potential * (pi - pi.detach())).sum()
        return transport + self.prior * (pi * (log_pi + math.log(len(codes)))).sum()


def _sample(x: Tensor, size: int) -> Tensor:
    rows = max(1, _BLOCK // size)
    return x if len(x) <= rows else x[torch.randperm(len(x), device=x.device)[:rows]]
