"""Training steps of EnCodec and HiFi-Codec made of public parts, to be raced against."""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec import assets
from codec.errors import ConfigError

Output = tuple[list[Tensor], list[list[Tensor]]]


class EncodecReference:
    """EnCodec at 24 kHz and 6 kbps as the paper (arXiv 2210.13438) trains it, of the parts of the package `encodec`.

    The package has the model and the discriminator; the mels are torchaudio's; the sums, the hinge loss and the
    balancer, of which the package has none, are written down as plainly as the paper does.

    Args:
        audio: batch `(B, 1, N)` that every step trains on.
    """

    def __init__(self, audio: Tensor) -> None:
        encodec = assets.optional("encodec", "encodec")
        msstftd = assets.optional("encodec.msstftd", "encodec")
        torchaudio = assets.optional("torchaudio", "encodec")

        self.audio = audio
        self.codec = encodec.EncodecModel.encodec_model_24khz(pretrained=False).train()
        windows = [2048, 1024, 512, 256, 128]
        hops = [window // 4 for window in windows]
        self.discriminator = msstftd.MultiScaleSTFTDiscriminator(
            filters=32, n_ffts=windows, hop_lengths=hops, win_lengths=windows
        )
        self.mels = nn.ModuleList(
            torchaudio.transforms.MelSpectrogram(
                24000,
                n_fft=max(window, 512),
                win_length=window,
                hop_length=window // 4,
                n_mels=64,
                power=1,
                normalized="window",
            )
            for window in (32, 64, 128, 256, 512, 1024, 2048)
        )
        self.norms: dict[str, Tensor] = {}
        self.optimizer = torch.optim.Adam(self.codec.parameters(), lr=3e-4, betas=(0.5, 0.9))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=3e-4, betas=(0.5, 0.9))

    def step(self) -> None:
        """Train the discriminator, then the codec."""
        z = self.codec.encoder(self.audio)
        quantized = self.codec.quantizer(z, self.codec.frame_rate, 6.0)
        estimate = self.codec.decoder(quantized.quantized)[..., : self.audio.shape[-1]]

        real, fake = self.discriminator(self.audio)[0], self.discriminator(estimate.detach())[0]
        loss = sum((1 - r).relu().mean() + (1 + f).relu().mean() for r, f in zip(real, fake, strict=True))
        (loss / len(real)).backward()
        self.optimizer_d.step()
        self.optimizer_d.zero_grad()

        logits, features = self.discriminator(estimate)
        with torch.no_grad():
            targets = self.discriminator(self.audio)[1]
        matching = [
            (r - f).abs().mean() / r.abs().mean()
            for reals, fakes in zip(targets, features, strict=True)
            for r, f in zip(reals, fakes, strict=True)
        ]
        terms = {
            "wave": (estimate - self.audio).abs().mean(),
            "mel": self._mel(estimate),
            "adv": torch.stack([(1 - logit).relu().mean() for logit in logits]).mean(),
            "fm": torch.stack(matching).mean(),
        }
        balanced = self._balance(terms, estimate)
        torch.autograd.backward([estimate, quantized.penalty], [balanced, torch.ones(())])
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _mel(self, estimate: Tensor) -> Tensor:
        total = estimate.new_zeros(())
        for mel in self.mels:
            ours = mel(estimate)
            with torch.no_grad():
                target = mel(self.audio)
            logs = (ours + 1e-5).log() - (target + 1e-5).log()
            total = total + (ours - target).abs().mean() + logs.square().mean(dim=-2).sqrt().mean()
        return total / len(self.mels)

    def _balance(self, terms: dict[str, Tensor], estimate: Tensor) -> Tensor:
        shares = {"wave": 0.1, "mel": 1.0, "adv": 3.0, "fm": 3.0}
        balanced = torch.zeros_like(estimate)
        for name, term in terms.items():
            (gradient,) = torch.autograd.grad(term, estimate, retain_graph=True)
            norm = gradient.flatten(1).norm(dim=1).mean()
            self.norms[name] = 0.999 * self.norms.get(name, norm) + 0.001 * norm
            balanced += shares[name] / sum(shares.values()) * gradient / (self.norms[name] + 1e-12)
        return balanced


class HiFiCodecReference:
    """HiFi-Codec at 24 kHz, hop 240, as its published code (AcademiCodec) trains it.

    Encoder, quantizer, generator and the multi-period and multi-scale discriminators are those of the checkout, the
    complex spectrum discriminator is that of the package `encodec`, of which the checkout has a copy; the mels are
    torchaudio's. The order of the work is that of its training script.

    Args:
        audio: batch `(B, 1, N)` that every step trains on.
        checkout: folder of AcademiCodec.

    Raises:
        ConfigError: there is no such checkout.
    """

    def __init__(self, audio: Tensor, checkout: Path | None) -> None:
        msstftd = assets.optional("encodec.msstftd", "encodec")
        torchaudio = assets.optional("torchaudio", "encodec")

        parts = _published(checkout)
        settings = SimpleNamespace(
            resblock="1",
            upsample_rates=[8, 5, 3, 2],
            upsample_kernel_sizes=[16, 11, 7, 4],
            upsample_initial_channel=512,
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=[[1, 3, 5]] * 3,
            n_code_groups=2,
            n_codes=1024,
            codebook_loss_lambda=1.0,
            commitment_loss_lambda=0.25,
        )
        self.audio = audio
        self.encoder, self.decoder = parts.Encoder(settings), parts.Generator(settings)
        self.quantizer = parts.Quantizer(settings)
        self.mpd, self.msd = parts.MultiPeriodDiscriminator(), parts.MultiScaleDiscriminator()
        self.stft = msstftd.MultiScaleSTFTDiscriminator(filters=32)
        self.mels = nn.ModuleList(
            torchaudio.transforms.MelSpectrogram(
                24000, n_fft=window, hop_length=hop, n_mels=80, power=1, norm="slaney", mel_scale="slaney"
            )
            for window, hop in ((1024, 240), (512, 120), (256, 60))
        )
        codec = chain(self.encoder.parameters(), self.quantizer.parameters(), self.decoder.parameters())
        discriminators = chain(self.mpd.parameters(), self.msd.parameters(), self.stft.parameters())
        self.optimizer = torch.optim.Adam(codec, lr=2e-4, betas=(0.5, 0.9))
        self.optimizer_d = torch.optim.Adam(discriminators, lr=2e-4, betas=(0.5, 0.9))

    def step(self) -> None:
        """Train the discriminators, then the codec."""
        quantized, penalty, _ = self.quantizer(self.encoder(self.audio))
        estimate = self.decoder(quantized)
        self.optimizer_d.zero_grad()
        pairs = self._outputs(estimate.detach())
        sum(
            (1 - r).square().mean() + f.square().mean()
            for (reals, _), (fakes, _) in pairs
            for r, f in zip(reals, fakes, strict=True)
        ).backward()  # type: ignore[union-attr]
        self.optimizer_d.step()

        self.optimizer.zero_grad()
        loss = 10 * penalty
        for mel, weight in zip(self.mels, (45, 1, 1), strict=True):
            logs = [mel(signal).clamp(min=1e-5).log() for signal in (self.audio, estimate)]
            loss = loss + weight * F.l1_loss(*logs)
        for (_, reals), (logits, fakes) in self._outputs(estimate):
            loss = loss + sum((1 - logit).square().mean() for logit in logits)
            for r, f in zip(chain(*reals), chain(*fakes), strict=True):
                loss = loss + 2 * (r - f).abs().mean()
        loss.backward()
        self.optimizer.step()

    def _outputs(self, estimate: Tensor) -> list[tuple[Output, Output]]:
        pairs = []
        for discriminator in (self.mpd, self.msd):
            real, fake, real_features, fake_features = discriminator(self.audio, estimate)
            pairs.append(((real, real_features), (fake, fake_features)))
        return [*pairs, (self.stft(self.audio), self.stft(estimate))]


def _published(checkout: Path | None) -> Any:
    if checkout is None or not (checkout / "academicodec" / "models" / "hificodec" / "models.py").is_file():
        raise ConfigError(
            "hificodec is raced against its published code, which is no package: give a checkout of "
            "github.com/yangdongchao/AcademiCodec"
        )
    sys.path.insert(0, str(checkout))
    try:
        return import_module("academicodec.models.hificodec.models")
    finally:
        sys.path.remove(str(checkout))
