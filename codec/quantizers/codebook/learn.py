"""Learn: how the table moves (EMA, gradient, synchronised, frozen)."""

import torch
from torch import Tensor, nn

from codec.quantizers.codebook.table import Table


class Learn(nn.Module):
    """How the table moves.

    Attributes:
        trainable: the optimiser moves the table, driven by a codebook loss.
        moves: ``update`` wants the counts and sums of every step.
        sync: share of the decoder's gradient that reaches the codes.
    """

    trainable = False
    moves = False
    sync = 0.0

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()

    def reset(self, codes: Tensor, counts: Tensor, rows: Tensor) -> None:
        """Forget the past of the codes where ``rows`` (V,) is set: they were just placed at ``codes`` (V, d)."""

    def update(self, table: Table, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        """Move the table: ``counts`` are running means, ``sums`` (V, d) of this step; ``rate`` 0 means: leave it."""


class Ema(Learn):
    """Running means of the vectors that chose each code (van den Oord et al., arXiv 1711.00937, appendix A)."""

    moves = True
    sums: Tensor

    def __init__(self, dim: int, size: int) -> None:
        super().__init__(dim, size)
        self.register_buffer("sums", torch.zeros(size, dim))

    def reset(self, codes: Tensor, counts: Tensor, rows: Tensor) -> None:
        self.sums.copy_(torch.where(rows[:, None], codes * counts[:, None], self.sums))

    def update(self, table: Table, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        self.sums.lerp_(sums, rate)
        # a code that was not used for very long stays where it is, instead of becoming 0 / 0
        used = (counts > 1e-6)[:, None]
        table.write(torch.where(used, self.sums / counts.clamp_min(1e-6)[:, None], table.codes()))


class Gradient(Learn):
    """The optimiser moves the table: codebook loss |sg(z) - q|^2 (arXiv 1711.00937)."""

    trainable = True


class Sync(Learn):
    """Gradient, and a share of the decoder's gradient also reaches the codes (Huh et al., arXiv 2305.08842).

    Args:
        nu: that share.
    """

    trainable = True

    def __init__(self, dim: int, size: int, nu: float = 0.2) -> None:
        super().__init__(dim, size)
        self.sync = nu


class Frozen(Learn):
    """The table does not move: weights for inference only."""
