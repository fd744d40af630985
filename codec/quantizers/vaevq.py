"""Variational vector quantization (VAEVQ)."""

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from codec.quantizers.base import QuantizerOutput
from codec.quantizers.vector import RVQ, Settings, Sizes


class VAEVQ(RVQ):
    """The latent is the mean of a Gaussian, whose samples the decoder also learns from (arXiv 2511.06863).

    The paper decodes each latent twice, sampled and quantized; here a share of the training samples is decoded from the
    sample. Losses beside those of the codebooks, by the paper's formulas (its release leaves most of them out):
    ``coherence`` = mean |(q - mu) / sg(sigma)|^2 / 2, ``kl`` to the standard normal, and ``spread``, the 2-Wasserstein
    distance of the sum of all codebooks' vectors to the standard normal, channels independent between codebooks.

    Args:
        dim: latent width D.
        num_codebooks: number of codebooks K.
        codebook_size: codes per codebook V, one number or one for each.
        sampled: share of the samples of a training batch that are decoded without quantization.
        settings: see `Settings`.
    """

    def __init__(
        self,
        dim: int,
        num_codebooks: int = 1,
        codebook_size: Sizes = 1024,
        *,
        sampled: float = 0.5,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(dim, num_codebooks, codebook_size, **settings)
        self.sampled = sampled
        self.log_variance = nn.Linear(dim, dim)
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -4.0)

    def _forward(self, x: Tensor, num: int | None) -> QuantizerOutput:
        out = super()._forward(x, num)
        quantized, losses = out.quantized, out.losses
        log_var = self.log_variance(x).clamp(-20, 10)
        sigma = (0.5 * log_var).exp()
        if x.numel():
            losses["coherence"] = 0.5 * ((quantized.detach() - x) / sigma.detach()).square().mean()
            losses["kl"] = 0.5 * (x.square() + log_var.exp() - 1 - log_var).mean()
        else:
            losses |= {"coherence": x.new_zeros(()), "kl": x.new_zeros(())}
        losses["spread"] = self._spread_of_codes()
        if self.training and self.sampled:
            drawn = torch.rand(len(x), 1, 1, device=x.device) < self.sampled
            quantized = torch.where(drawn, x + sigma * torch.randn_like(x), quantized)
        return replace(out, quantized=quantized)

    def _spread_of_codes(self) -> Tensor:
        """2-Wasserstein distance, per channel, of the sum of a random code of each codebook to N(0, I)."""
        used = [self.codebook(k).table for k in range(len(self.stages))]
        tables = [table.project_out(table.codes()) for table in used]
        mean = torch.stack([t.mean(0) for t in tables]).sum(0)
        covariance = torch.stack([(t - t.mean(0)).t() @ (t - t.mean(0)) / len(t) for t in tables]).sum(0)
        values = torch.linalg.eigvalsh(covariance + 1e-6 * torch.eye(self.dim, device=mean.device)).clamp_min(
            1e-12
        )
        return mean.square().mean() + (values - 2 * values.sqrt() + 1).mean()
