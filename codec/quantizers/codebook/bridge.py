"""Bridge: how the gradient crosses the quantizer (straight-through, rotation)."""

from torch import Tensor


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """The value q with the gradient of x (Bengio et al., arXiv 1308.3432). The value is q to the last bit."""
    return q.detach() + (x - x.detach())
