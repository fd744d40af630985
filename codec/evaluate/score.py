"""One clip through one system: what a worker process does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from codec import audio, metrics
from codec.errors import CodecError
from codec.evaluate.checks import Calibration, calibrate
from codec.evaluate.clips import Clip, digest
from codec.evaluate.options import Options
from codec.evaluate.parse import parse
from codec.evaluate.system import System
from codec.metrics import Unscorable
from codec.metrics.base import Signal

CALIBRATION_CLIPS, CALIBRATION_SECONDS = 3, 6.0
AUDIBLE = 1e-2  # peak of a clip that a system can be checked by
EXAMPLE_SECONDS = 6.0


@dataclass(frozen=True, slots=True)
class Task:
    """What to score, and where to leave what the report needs.

    Attributes:
        spec: of the system.
        channel: that damages its codes, or empty.
        clip: the recording.
        options: of the evaluation.
        calibration: of the system.
        folder: for tokens and examples.
        example: whether the decoded sound is kept for the report.
    """

    spec: str
    channel: str
    clip: Clip
    options: Options
    calibration: Calibration
    folder: str
    example: bool

    @property
    def system(self) -> str:
        """Its name in tables."""
        return _system(self.spec, self.channel).spec

    def key(self, identity: str) -> str:
        """Changes when the result may change."""
        return digest(
            identity,
            self.channel,
            asdict(self.clip),
            self.options.rate,
            self.options.seconds,
            tuple(sorted(self.options.models.items())),
            asdict(self.calibration),
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """A system after its sanity checks.

    Attributes:
        system: its name in tables.
        identity: changes when results may change; empty if it cannot run at all.
        calibration: what the checks found.
    """

    system: str
    identity: str
    calibration: Calibration

    def may_be_scored(self, *, strict: bool) -> bool:
        """Whether it passed, or can run at all where that is enough."""
        return not self.calibration.refused or (bool(self.identity) and not strict)


@dataclass(slots=True)
class Row:
    """The result of one task.

    Attributes:
        scores: metric to value.
        excluded: metric to the reason why it has no value.
        error: why the clip could not be coded at all.
    """

    key: str
    system: str
    clip: str
    seconds: float = 0.0
    note: str = ""
    payload_bytes: int = 0
    container_bytes: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    stability: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    error: str = ""
    tokens: str = ""
    example: str = ""


def start_worker() -> None:
    """One thread per process: the processes share the cores."""
    import os

    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def check_system(spec: str, channel: str, clips: Sequence[Clip], rate: int) -> Checked:
    """Run a system's sanity checks.

    Channels damage what comes back, so a system is checked without its channel.
    """
    system, named = parse(spec), parse(spec, channel)
    why = system.missing() or named.missing()
    if why:
        return Checked(named.spec, "", Calibration(refused=(why,)))
    audible: list[Clip] = []
    for clip in clips:
        if len(audible) == CALIBRATION_CLIPS:
            break
        with suppress(CodecError):  # a clip that cannot be read is reported when it is scored
            if np.abs(clip.load(rate, CALIBRATION_SECONDS)).max() > AUDIBLE:
                audible.append(clip)
    if not audible:
        return Checked(named.spec, named.identity(), Calibration())  # nothing loud enough to check it by
    try:
        pairs = [_pair(spec, clip, rate) for clip in audible]
        reference = [_pair(system.reference().spec, clip, rate) for clip in audible]
    except CodecError as error:
        return Checked(named.spec, "", Calibration(refused=(str(error),)))
    return Checked(named.spec, named.identity(), calibrate(system, pairs, rate, reference))


@lru_cache(64)
def _pair(spec: str, clip: Clip, rate: int) -> tuple[Signal, Signal]:
    """Decoded and original start of a clip; several systems may share a reference."""
    signal = clip.load(rate, CALIBRATION_SECONDS)
    return _system(spec, "").code(signal, rate).audio, signal


def score(task: Task) -> Row:
    """Code the clip and score it; trouble with the clip is part of the row."""
    system, rate = _system(task.spec, task.channel), task.options.rate
    row = Row(task.key(system.identity()), system.spec, task.clip.name, note=task.clip.note(rate))
    try:
        signal = task.clip.load(rate, task.options.seconds)
        row.seconds = signal.size / rate
        coded = system.code(signal, rate)
    except CodecError as error:
        row.error = str(error)
        return row
    row.payload_bytes, row.container_bytes = coded.payload_bytes, coded.container_bytes
    row.encode_seconds, row.decode_seconds = coded.encode_seconds, coded.decode_seconds
    row.stability = coded.stability
    if coded.audio.size < signal.size // 2:
        row.error = f"only {coded.audio.size} of {signal.size} samples came back"
        return row
    decoded = task.calibration.apply(coded.audio, signal.size)
    for name in task.options.metrics:
        try:
            metric = metrics.get(name, model=task.options.models.get(name), text=task.clip.text)
            value = metric(decoded, signal, rate)
        except (Unscorable, CodecError) as reason:  # the latter from a network that cannot be loaded
            row.excluded[name] = str(reason)
            continue
        except (
            Exception
        ) as error:  # packages of others fail in their own ways; the rest is scored all the same
            row.excluded[name] = f"{name} failed: {type(error).__name__}: {error}"
            continue
        if np.isfinite(value):
            row.scores[name] = value
        else:
            row.excluded[name] = f"the value is {value}"
    base = Path(task.folder) / f"{digest(system.spec)}-{digest(task.clip.name)}"
    if coded.codes is not None:
        row.tokens = f"{base.name}.npz"
        np.savez_compressed(base.with_suffix(".npz"), codes=coded.codes, sizes=coded.sizes)
    if task.example:
        row.example = f"{base.name}.flac"
        audio.write(base.with_suffix(".flac"), decoded[None, : round(EXAMPLE_SECONDS * rate)], rate)
    return row


@cache
def _system(spec: str, channel: str) -> System:
    return parse(spec, channel)
