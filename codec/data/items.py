"""Crops and clips of a map-style dataset of one's own: any class with `len` whose items are audio."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from codec import audio
from codec.data.dataset import Augment, Crop
from codec.errors import AudioError, ConfigError


class ItemDataset(Dataset[Crop]):
    """Random crops of the items of another dataset; crop n depends on n and the seed alone.

    Args:
        items: ``items[i]`` is audio ``(C, N)``, a tensor or an array, at the model's sample rate and channels, at least
            a crop long; ``len(items)`` is their number.
        indices: which items.
        channels: of the model.
        length: samples of a crop.
        seed: of the random numbers.
        augment: applied in order to each crop.
        sample_rate: of the model, hertz.

    Raises:
        ConfigError: there is no item.
    """

    def __init__(
        self,
        items: Any,
        indices: Sequence[int],
        *,
        sample_rate: int,
        channels: int,
        length: int,
        seed: int = 0,
        augment: Sequence[Augment] = (),
    ) -> None:
        if not indices:
            raise ConfigError("data.dataset has no items")
        self.items, self.indices = items, indices
        self.sample_rate, self.channels, self.length = sample_rate, channels, length
        self.seed, self.augment = seed, tuple(augment)

    def __getitem__(self, number: int) -> Crop:
        """Crop of any number >= 0; raises `AudioError` for an item that has not the form it must have."""
        random = np.random.default_rng([self.seed, number])
        index = self.indices[int(random.integers(len(self.indices)))]
        samples = self.item(index)
        start = int(random.integers(0, samples.shape[1] - self.length, endpoint=True))
        samples = samples[:, start : start + self.length]
        for change in self.augment:
            samples = change(samples, self.sample_rate, random)
        return Crop(audio=samples, path=f"item {index}", start=start, skipped={})

    def item(self, index: int) -> audio.Audio:
        """The whole of an item, ``(C, N)`` float32."""
        found = self.items[index]
        samples = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found, dtype=np.float32)
        if samples.ndim != 2 or samples.shape[0] != self.channels or samples.shape[1] < self.length:
            raise AudioError(
                f"item {index} of data.dataset has shape {samples.shape}, not ({self.channels}, {self.length} or more)"
            )
        return samples

    def clips(self, indices: Sequence[int], length: int) -> list[Crop]:
        """The middle of items, `length` samples or as long as the shortest of them."""
        found = [(index, self.item(index)) for index in indices]
        length = min(length, *(samples.shape[1] for _, samples in found))
        starts = [(samples.shape[1] - length) // 2 for _, samples in found]
        return [
            Crop(audio=samples[:, start : start + length], path=f"item {index}", start=start, skipped={})
            for (index, samples), start in zip(found, starts, strict=True)
        ]
