"""Semantic distillation: a frozen speech model as teacher of the first codebooks."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.errors import ConfigError
from codec.semantic import SpeechFeatures


class SemanticTeacher(nn.Module):
    """Cosine distillation of the first codebooks towards a frozen speech model; one term, `teacher`.

    `form: frame` is 1 - cos of the two vectors of each frame (Mimi, arXiv 2410.00037); `form: channel` is
    -log sigmoid(cos) of the two trajectories over time of each channel (the D-axis form of SpeechTokenizer,
    arXiv 2308.16692, and of HH-Codec, arXiv 2507.18897).

    The linear map is on the codec's side: one on the target's side could make all targets alike. The gradient
    passes the gradient estimator of the first codebooks into the encoder, and reaches neither the other codebooks nor
    the decoder. Distillation targets are resampled to the codec's frames by the mean over
    ceil(teacher's rate / codec's rate) instants spread evenly over each frame, with linear interpolation between the
    teacher's frames: a mean where the codec is slower, interpolation where it is faster.

    Args:
        source: folder with config.json, preprocessor_config.json and model.safetensors, or a name on the hub.
        dim: latent width D.
        sample_rate: of the codec, in Hz.
        hop: of the codec, in samples.
        layer: of the hidden states; None is the last one, `mean` the mean of all.
        form: `frame` or `channel`.

    Raises:
        ConfigError: see `SpeechFeatures`, or the form does not exist.
    """

    names = ("teacher",)

    def __init__(
        self,
        source: str,
        *,
        dim: int,
        sample_rate: int,
        hop: int,
        layer: int | Literal["mean"] | None = None,
        form: Literal["frame", "channel"] = "frame",
    ) -> None:
        super().__init__()
        if form not in ("frame", "channel"):
            raise ConfigError(f"the teacher's form is 'frame' or 'channel', not {form!r}")
        self.form, self.frame = form, hop / sample_rate
        with torch.random.fork_rng(devices=[]):
            self.features = SpeechFeatures(source, layer=layer, sample_rate=sample_rate)
        self.instants = math.ceil(self.features.rate * self.frame - 1e-9)
        self.project = nn.Linear(dim, self.features.width)

    def targets(self, audio: Tensor, frames: int) -> Tensor:
        """Distillation targets `(B, T, W)`, one for each of the codec's frames, of audio `(B, C, N)`."""
        each = torch.arange(frames * self.instants, device=audio.device, dtype=torch.float64)
        times = (each + 0.5) * (self.frame / self.instants)
        found = self.features.at(times, self.features(audio))
        return found.unflatten(1, (frames, self.instants)).mean(dim=2)

    def forward(self, first: Tensor, audio: Tensor) -> dict[str, Tensor]:
        """Term `teacher` of the output of the first codebooks `(B, D, T)` and the audio `(B, C, N)` they code."""
        target = self.targets(audio, first.shape[2])
        estimate = self.project(first.transpose(1, 2)).float()
        if self.form == "frame":
            return {"teacher": 1 - F.cosine_similarity(estimate, target, dim=2).mean()}
        return {"teacher": -F.logsigmoid(F.cosine_similarity(estimate, target, dim=1)).mean()}
