"""Update: how the code vectors move in training (EMA, gradient, synchronised, frozen)."""

import torch
from torch import Tensor, nn

from codec.quantizers.codebook.table import Table


class Update(nn.Module):
    """How the code vectors move in training.

    Attributes:
        trainable: the optimiser moves the table, driven by a codebook loss.
        averages: ``update`` wants the sums of every step, and writes the table.
        nu: share of the decoder's gradient that reaches the codes.
    """

    trainable = False
    averages = False
    nu = 0.0

    def __init__(self, width: int, size: int) -> None:
        super().__init__()

    def reset(self, codes: Tensor, counts: Tensor, rows: Tensor) -> None:
        """Forget the past of the codes that ``rows`` (V,) marks: they were just placed at ``codes`` (V, d)."""

    def update(self, table: Table, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        """Move the table.

        Args:
            table: what to move.
            counts: (V,) running mean of the vectors that chose each code.
            sums: (V, d) sum of those of this step.
            rate: how far running means move; 0 leaves everything as it is.
        """


class Ema(Update):
    """Running means of the vectors that chose each code (van den Oord et al., arXiv 1711.00937)."""

    averages = True
    sums: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__(width, size)
        self.register_buffer("sums", torch.zeros(size, width))

    def reset(self, codes: Tensor, counts: Tensor, rows: Tensor) -> None:
        self.sums.copy_(torch.where(rows[:, None], codes * counts[:, None], self.sums))

    def update(self, table: Table, counts: Tensor, sums: Tensor, rate: Tensor) -> None:
        self.sums.lerp_(sums, rate)
        # a code that was not used for very long stays where it is, instead of becoming 0 / 0
        used = (counts > 1e-6)[:, None]
        table.write(torch.where(used, self.sums / counts.clamp_min(1e-6)[:, None], table.weight))


class Gradient(Update):
    """The optimiser moves the table: codebook loss |sg(z) - q|^2 (arXiv 1711.00937)."""

    trainable = True


class Sync(Update):
    """As gradient, and a share of the decoder's gradient reaches the codes too (Huh et al., arXiv 2305.08842).

    Args:
        width: width d of the codes.
        size: number of codes V.
        nu: that share.
    """

    trainable = True

    def __init__(self, width: int, size: int, nu: float = 0.2) -> None:
        super().__init__(width, size)
        self.nu = nu


class Frozen(Update):
    """The table does not move: for inference, and for codebooks that came from elsewhere."""
