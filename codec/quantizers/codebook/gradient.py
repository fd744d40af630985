"""Gradient estimators: how the gradient passes a quantizer (straight-through, rotation trick)."""

from torch import Tensor
from torch.nn import functional as F


def straight_through(x: Tensor, q: Tensor) -> Tensor:
    """The value of q to the last bit, with the gradient of x (Bengio et al., arXiv 1308.3432)."""
    return q.detach() + (x - x.detach())


def rotation(x: Tensor, q: Tensor) -> Tensor:
    """The rotation trick: the value of q, the gradient of x turned and scaled as x is onto q (arXiv 2410.06424).

    Args:
        x: (..., D) vectors.
        q: (..., D) what they became.
    """
    e, q = x.detach(), q.detach()
    length = e.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    scale = q.norm(dim=-1, keepdim=True) / length
    u, v = e / length, F.normalize(q, dim=-1, eps=1e-6)
    w = F.normalize(u + v, dim=-1, eps=1e-6)
    turned = x - 2 * (x * w).sum(-1, keepdim=True) * w + 2 * (x * u).sum(-1, keepdim=True) * v
    turned = scale * turned
    return q + (turned - turned.detach())
