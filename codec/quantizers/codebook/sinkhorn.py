"""Assign by optimal transport: every code gets its share of the batch."""

import torch
from torch import Tensor

from codec.quantizers.codebook.assign import Assign
from codec.quantizers.codebook.sync import all_minimum, all_reduce


class Sinkhorn(Assign):
    """Entropic optimal transport between the batch and evenly used codes (OptVQ, arXiv 2412.15195).

    Args:
        epsilon: sharpness of the plan.
        iterations: Sinkhorn iterations.
        sample: draw the code from the plan instead of taking its largest entry.
    """

    def __init__(self, epsilon: float = 10.0, iterations: int = 5, sample: bool = True) -> None:
        super().__init__()
        if epsilon <= 0 or iterations < 1:
            raise ValueError(
                f"epsilon must be positive and iterations at least 1, not {epsilon} and {iterations}"
            )
        self.epsilon, self.iterations, self.sample = epsilon, iterations, sample

    @torch.no_grad()
    def forward(self, x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        # a vector that is no number must not spoil the plan of the others, here or in another process
        distance = torch.cdist(x.detach().nan_to_num(0.0, 0.0, 0.0), codes.detach())
        stats = torch.stack([distance.sum(), distance.square().sum(), distance.new_tensor(distance.numel())])
        all_reduce(stats)
        mean = stats[0] / stats[2]
        deviation = (stats[1] / stats[2] - mean.square()).clamp_min(1e-12).sqrt()
        distance = (distance - mean) / deviation
        # each column is scaled by its own sum below, so its own minimum may go: no code, however far, underflows
        least = distance.amin(0)
        all_minimum(least)
        plan = torch.exp(-self.epsilon * (distance - least))
        row = plan.new_ones(len(x))
        for _ in range(self.iterations):
            use = plan.t() @ row
            all_reduce(use)
            column = 1 / use.clamp_min(1e-20)
            row = 1 / (plan @ column).clamp_min(1e-20)
        plan = plan * column
        if not self.sample:
            return plan.argmax(1), None
        # drawn by the inverse of the distribution; the constant makes all codes as good where a row underflowed to zero
        ends = (plan + 1e-20).cumsum(1)
        drawn = torch.rand(len(x), 1, device=x.device) * ends[:, -1:]
        return torch.searchsorted(ends, drawn)[:, 0].clamp_max(len(codes) - 1), None
