"""Vectors that quantizers are examined on, Gaussian ones and a codec's latents, and the best possible on them."""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from codec.data.recordings import Recording
from codec.errors import ConfigError
from codec.models.codec import Codec
from codec.quantizers.codebook.init import reproduced


def gaussian(count: int, dim: int = 16) -> Tensor:
    """White Gaussian vectors (count, dim), the same ones in every run."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def latents(codec: Codec, recordings: Sequence[Recording], limit: int = 120_000) -> Tensor:
    """What the encoder of a codec makes of recordings, (M, D).

    The recordings come in random order, the frames of each in theirs: whoever trains on the first vectors and
    measures on the last ones measures on other recordings.

    Args:
        codec: a model in evaluation mode.
        recordings: of any rate and channel count.
        limit: stop after so many vectors.

    Raises:
        ConfigError: there are no recordings, or none as long as a frame.
    """
    return torch.cat(each_latents(codec, random.Random(0).sample(recordings, len(recordings)), limit))


@torch.no_grad()
def each_latents(codec: Codec, recordings: Sequence[Recording], limit: int | None = None) -> list[Tensor]:
    """The latents (M, D) of each recording, as `latents` without the shuffling; too short ones are left out."""
    found: list[Tensor] = []
    count = 0
    for recording in recordings:
        frames = recording.length(codec.sample_rate) // codec.hop
        frames = frames if limit is None else min(frames, limit - count)
        if frames:
            samples = recording.crop(0, frames * codec.hop, codec.sample_rate, codec.channels)
            found.append(codec.encoder(torch.from_numpy(samples)[None])[0].t().float())
            count += frames
    if not found:
        raise ConfigError("there is no sound to take latents from")
    return found


def bound_db(covariance: Tensor, bits: float) -> float:
    """Best signal-to-noise ratio in dB of Gaussian vectors with this covariance (D, D) at so many bits per vector.

    The rate-distortion function of a Gaussian source: reverse water-filling over the eigenvalues (Cover and Thomas,
    Elements of Information Theory, section 10.3). White vectors give 6.02 dB per bit and dimension.
    """
    power = torch.linalg.eigvalsh(covariance.double()).clamp_min(1e-12)
    return decibels(power.sum() / (power - reproduced(power, bits)).sum())


def decibels(ratio: Tensor) -> float:
    """10 log10 of a ratio of powers."""
    return 10 * math.log10(float(ratio))
