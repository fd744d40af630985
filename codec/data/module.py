"""The data of a run: finds recordings, splits them, checks them, and hands batches to the trainer."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from codec.build import make
from codec.data.augment import augmentations
from codec.data.corpora import corpus
from codec.data.dataset import ClipDataset, Crop, CropDataset, collate_batch
from codec.data.items import ItemDataset
from codec.data.loader import CropLoader
from codec.data.recordings import Recording
from codec.data.sources import Found, builtin, filtered, find, fingerprint, hold_out
from codec.errors import ConfigError

# what a setting may be, null apart, and how that is called
_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(("root", "valid", "corpus"), ((str, os.PathLike), "path or a name")),
    **dict.fromkeys(("samples", "batch_size", "batches_per_epoch", "num_workers"), (int, "whole number")),
    **dict.fromkeys(("seed", "valid_clips"), (int, "whole number")),
    **dict.fromkeys(("valid_seconds", "min_dbfs", "weight"), ((int, float), "number")),
}
_SOURCE = ("root", "valid", "corpus", "splits", "download", "filters")


class AudioData(LightningDataModule):
    """Training crops and validation clips.

    Args:
        root: a folder of sound files, a .jsonl manifest, tar shards, or where a corpus lies; None for the
            repository's own recordings.
        sample_rate: of the model, hertz.
        channels: of the model.
        samples: length of a training crop.
        batch_size: crops per process and step.
        seed: of crops and augmentation.
        valid: a folder or manifest to validate on; None for what the source defines (`valid.jsonl`, rows with that
            split, a corpus's own set), else about 2% of the speakers or files are held out.
        corpus: name of a public corpus, see `codec.data.corpora`.
        splits: parts of the corpus.
        download: get the corpus if it is missing.
        filters: what manifest rows must have, key -> value or list of values; see `codec.data.sources.find`.
        sources: a mixture instead of one source: each a mapping with `root`, `valid`, `corpus`, `splits`, `download`
            and `filters` of its own, and `weight`, its share of the crops.
        dataset: training audio from a class of one's own instead, `name` and keywords of its constructor, which also
            gets `sample_rate`, `channels`, `length` and `seed` if it takes them; see `codec.data.items.ItemDataset`.
            Without `valid`, about 2% of the items are held out.
        voices: how much more often a voice with more audio is heard: a voice of t seconds is drawn in proportion to
            t^voices within its source, 1 by duration, 0.5 by the square root, 0 all alike. Files without a speaker are
            a voice each.
        batches_per_epoch: None for about as many as the audio has crops.
        num_workers: processes that decode; None for one less than there are cores, at most 4.
        valid_seconds: length of validation clips; shorter recordings are left out, unless all are.
        valid_clips: how many.
        min_dbfs: crops below this level are drawn again.
        augment: see `codec.data.augment`.

    Raises:
        ConfigError: nothing to train on, a manifest that names missing files, unknown settings.

    Attributes:
        summary: of what there is, in plain values.
        notes: what the user should know at the start, one sentence each.
        batches_per_epoch: batches of each process per epoch.
    """

    summary: dict[str, Any]

    def __init__(
        self,
        root: str | None = None,
        *,
        sample_rate: int,
        channels: int,
        samples: int,
        batch_size: int,
        seed: int = 0,
        valid: str | None = None,
        corpus: str | None = None,
        splits: Sequence[str] | None = None,
        download: bool = False,
        filters: Mapping[str, Any] | None = None,
        sources: Sequence[Mapping[str, Any]] | None = None,
        dataset: Mapping[str, Any] | None = None,
        voices: float = 1.0,
        batches_per_epoch: int | None = None,
        num_workers: int | None = None,
        valid_seconds: float = 4.0,
        valid_clips: int = 16,
        min_dbfs: float = -60.0,
        augment: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        numbers = {"samples": samples, "batch_size": batch_size, "seed": seed, "num_workers": num_workers}
        numbers |= {"batches_per_epoch": batches_per_epoch, "valid_clips": valid_clips}
        _check_types(numbers | {"valid_seconds": valid_seconds, "min_dbfs": min_dbfs})
        self.notes: list[str] = []
        self._batch_size = batch_size
        self._position = 0
        self._skipped: dict[str, str] = {}
        self._loader: CropLoader | None = None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._num_workers = min(4, max(1, cores - 1)) if num_workers is None else num_workers

        shape = {"sample_rate": sample_rate, "channels": channels, "length": samples, "seed": seed}
        length = round(valid_seconds * sample_rate)
        if dataset is not None:
            items = make("dataset", dataset, allow=True, **shape)
            count = len(items)
            held = max(1, count // 50) if valid is None and count > 1 else 0
            own = ItemDataset(items, range(count - held), augment=augmentations(augment), **shape)
            self.dataset: CropDataset | ItemDataset = own
            if valid is None:
                self._valid: Any = own.clips(range(count - (held or 1), count)[:valid_clips], length)
            else:
                given = find(valid, filters)
                self._valid = _clips(given.valid or given.train, length, valid_clips, sample_rate, channels)
            self.batches_per_epoch = batches_per_epoch or max(1, round((count - held) / batch_size))
            self.summary = {
                "files": count - held,
                "hours": round(
                    (count - held) * samples / sample_rate / 3600, 3
                ),  # as if each were one crop long
                "valid_clips": len(self._valid),
                "dataset": dataset.get("name"),
            }
            return
        if sources is not None and not sources:
            raise ConfigError("give data.sources=[{root: PATH, weight: SHARE}, ...]: the mixture is empty")
        one = dict(zip(_SOURCE, (root, valid, corpus, splits, download, filters), strict=True))
        found = [self._find(spec, samples, sample_rate) for spec in ([one] if sources is None else sources)]
        for part in found:
            self._skipped |= part.skipped
        train = [recording for part in found for recording in part.train]
        shares = None
        if sources is not None and any("weight" in spec for spec in sources):
            shares = [float(spec.get("weight", 1.0)) for spec in sources]
        if not 0 <= voices <= 1:
            raise ConfigError(f"data.voices is {voices:g}, it must lie between 0 and 1")
        self.dataset = CropDataset(
            train,
            weights=_weights(found, shares, voices),
            min_dbfs=min_dbfs,
            augment=augmentations(augment),
            **shape,
        )
        valid_recordings = [recording for part in found for recording in part.valid]
        clips = _clips(valid_recordings, length, valid_clips, sample_rate, channels)
        self._valid = clips
        self._skipped |= clips.skipped
        seconds = sum(recording.seconds for recording in train)
        self.batches_per_epoch = batches_per_epoch or max(
            1, round(seconds * sample_rate / samples / batch_size)
        )
        low = sum(recording.sample_rate < sample_rate for recording in train)
        if low:
            self.notes.append(
                f"{low} of {len(train)} training files ({low / len(train):.0%}) have a sample rate below the model's"
                f" {sample_rate} Hz and cannot teach its upper band"
            )
        self.summary = {
            "files": len(train),
            "hours": round(seconds / 3600, 3),
            "speakers": len({r.speaker for r in train} - {None}),
            "valid_clips": len(self._valid),
            "skipped": len(self._skipped),
            "hash": fingerprint(train),
        }

    def train_dataloader(self) -> CropLoader:
        """Batches of crops, from where the run is."""
        trainer = self.trainer
        self._loader = CropLoader(
            self.dataset,
            batch_size=self._batch_size,
            steps=self.batches_per_epoch,
            num_workers=self._num_workers,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
        self._loader.position = self._position
        return self._loader

    def val_dataloader(self) -> DataLoader[Crop]:
        """Batches of the fixed clips."""
        return DataLoader(self._valid, batch_size=self._batch_size, collate_fn=collate_batch)

    def state_dict(self) -> dict[str, Any]:
        """The position in the data."""
        return {"position": self._loader.position if self._loader else self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where another run was."""
        self._position = int(state_dict["position"])
        if self._loader:
            self._loader.position = self._position

    def report(self, most: int = 10) -> list[str]:
        """Files that could not be used so far: a line with their number, then at most so many with the reason."""
        skipped = self._skipped | (self._loader.skipped if self._loader else {})
        if not skipped:
            return []
        lines = [f"  {name}: {why}" for name, why in skipped.items()][:most]
        more = [f"  and {len(skipped) - most} more"] if len(skipped) > most else []
        return [f"skipped {len(skipped)} file{'s' * (len(skipped) > 1)}:", *lines, *more]

    def _find(self, spec: Mapping[str, Any], samples: int, rate: int) -> Found:
        _check_types(spec)
        unknown = set(spec) - {*_SOURCE, "weight"}
        if unknown:
            raise ConfigError(f"a data source has no setting {', '.join(sorted(unknown))}")
        root, filters = spec.get("root"), spec.get("filters")
        if spec.get("corpus"):
            found = corpus(spec["corpus"], root, spec.get("splits"), spec.get("download", False))
            found = filtered(found, filters, spec["corpus"])
        elif root is None:
            found = find(builtin(), filters)
            self.notes.append(
                "no data.root: training on the few recordings of the repository, only to see it work"
            )
        else:
            found = find(root, filters)
        if found.unchecked:
            self.notes.append(
                f"data.filters: {', '.join(found.unchecked)} cannot be checked without a .jsonl manifest, so all of "
                f"{spec.get('corpus') or root} passes"
            )
        found.train = self._long_enough(found.train, samples, rate)
        if spec.get("valid"):
            given = find(spec["valid"], filters)
            found.valid = given.valid or given.train
            found.skipped |= given.skipped
        elif not found.valid:
            found.train, found.valid = hold_out(found.train)
            if found.train == found.valid:
                self.notes.append(f"{found.train[0].name} is the only recording, so validation uses it too")
        return found

    def _long_enough(self, recordings: Sequence[Recording], samples: int, rate: int) -> list[Recording]:
        for recording in recordings:
            if recording.length(rate) < samples:
                self._skipped[recording.name] = (
                    f"{recording.seconds:.2f} s, shorter than a crop of {samples / rate:.2f} s"
                )
        found = [recording for recording in recordings if recording.length(rate) >= samples]
        if recordings and not found:
            raise ConfigError(f"all {len(recordings)} training files are shorter than data.samples={samples}")
        return found


def _check_types(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        wanted, word = _TYPES.get(name, (object, ""))
        if value is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and word)):
            raise ConfigError(f"data.{name} is {value!r}, and should be a {word}")


def _weights(found: Sequence[Found], shares: Sequence[float] | None, voices: float) -> list[float]:
    """Of each recording: its part of its voice by duration, the voice's of its source, and the source's by `shares`.

    Without shares a source has that of its voices together. A recording's own weight counts on top.
    """
    if shares is not None and (min(shares) < 0 or not sum(shares)):
        raise ConfigError(f"the weights of data.sources must be positive, not {', '.join(map(str, shares))}")
    weights = []
    for number, part in enumerate(found):
        keys = [recording.speaker or recording.name for recording in part.train]
        spoken: dict[str, float] = {}
        for key, recording in zip(keys, part.train, strict=True):
            spoken[key] = spoken.get(key, 0.0) + recording.seconds
        own = [
            r.weight * r.seconds * spoken[key] ** (voices - 1)
            for key, r in zip(keys, part.train, strict=True)
        ]
        scale = 1.0 if shares is None else shares[number] / sum(own)
        weights += [scale * weight for weight in own]
    return weights


def _clips(recordings: Sequence[Recording], length: int, most: int, rate: int, channels: int) -> ClipDataset:
    """Clips of evenly spread recordings, as long as asked for or else as the longest recording."""
    length = min(length, max((recording.length(rate) for recording in recordings), default=0))
    recordings = [recording for recording in recordings if recording.length(rate) >= length]
    chosen: Iterable[int] = (
        np.unique(np.linspace(0, max(0, len(recordings) - 1), most).round().astype(int)) if recordings else []
    )
    return ClipDataset([recordings[i] for i in chosen], sample_rate=rate, channels=channels, length=length)
