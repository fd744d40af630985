"""Networks that start from data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from codec.nn.conv import is_fixed


@torch.no_grad()
def normalize_convolutions(network: nn.Module, x: Tensor) -> None:
    """Scale and shift every convolution so that on `x` each of its channels has mean 0 and variance 1.

    The data-dependent initialisation of Salimans and Kingma (arXiv 1602.07868). Speech is soft, so in a network that
    starts from random numbers alone the biases outweigh it: latents are nearly constant, the first steps move them by
    many times their spread, and codebooks that know where they were lie in the void. A convolution without bias is
    scaled to a mean square of 1.

    Args:
        network: its convolutions are set one after the other, each hearing those before it as they are then.
        x: a batch of inputs.
    """
    hooks = [
        part.register_forward_hook(_normalize)
        for part in network.modules()
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d | nn.Conv2d)
        and not is_fixed(part)
        and not _is_spectral(part)
    ]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()


def _is_spectral(conv: nn.Module) -> bool:
    """Whether a spectral norm sets the scale."""
    return any("SpectralNorm" in type(part).__name__ for part in conv.modules())


def _normalize(conv: nn.Conv1d, inputs: Any, y: Tensor) -> Tensor:
    """Set one convolution by its output `(B, C, ...)`; the output that it would have now."""
    values = y.transpose(0, 1).flatten(1).double()
    mean = values.mean(1) if conv.bias is not None else values.new_zeros(len(values))
    deviation = (values - mean[:, None]).square().mean(1).sqrt()
    # a channel that hears nothing stays as it is
    deviation = torch.where(deviation > 1e-8, deviation, 1.0)
    if isinstance(conv, nn.ConvTranspose1d) and conv.groups > 1:
        return y  # its weights are blocked by group; it stays as it is
    shape = [1] * conv.weight.ndim
    shape[1 if isinstance(conv, nn.ConvTranspose1d) else 0] = -1
    weight = conv.weight / deviation.float().view(shape)
    if parametrize.is_parametrized(conv):
        conv.weight = weight  # weight normalization takes it apart
    else:
        conv.weight.copy_(weight)
    if conv.bias is not None:
        conv.bias.copy_((conv.bias - mean) / deviation)
    across = (-1, *[1] * (y.ndim - 2))
    return ((y - mean.view(across)) / deviation.view(across)).to(y.dtype)
