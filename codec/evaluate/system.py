"""What is compared: anything that turns a clip into bytes and back, behind one interface."""

from __future__ import annotations

import io
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from codec import audio
from codec.errors import ConfigError
from codec.metrics.base import Signal


@dataclass(frozen=True, slots=True)
class Coded:
    """A clip after encoding and decoding.

    Attributes:
        audio: decoded `(N',)` at the rate of the evaluation.
        payload_bytes: of the coded sound alone.
        container_bytes: of the whole file that holds it.
        encode_seconds: wall time.
        decode_seconds: wall time.
        codes: tokens `(K, T)`, where the system has any.
        sizes: of the codebooks.
        stability: share of tokens that survive decoding and encoding again.
    """

    audio: Signal
    payload_bytes: int
    container_bytes: int
    encode_seconds: float
    decode_seconds: float
    codes: NDArray[np.int64] | None = None
    sizes: tuple[int, ...] = field(default=())
    stability: float | None = None


class System(ABC):
    """A codec under test.

    Attributes:
        spec: its name in tables, as given on the command line.
        family: systems of one family differ in rate alone, and more rate must give more quality.
        delayed: the decoded clip may lag by a constant, which is found and taken away; others must not lag.
        frame: the decoded clip may end so many seconds early or late (whole frames of a tool that keeps no length).
        parametric: it does not follow the waveform or its level, so a constant gain is found and taken away too.
    """

    spec: str
    family: str
    delayed = False
    frame = 0.0
    parametric = False

    def missing(self) -> str | None:
        """Why it cannot run here, or None if it can."""
        return None

    def identity(self) -> str:
        """Changes when results may change: a fingerprint or a version."""
        return self.spec

    def reference(self) -> System:
        """The system whose level is checked: the same wrapper where the codec itself changes the level least."""
        return self

    @abstractmethod
    def code(self, signal: Signal, rate: int) -> Coded:
        """Encode and decode one clip `(N,)` at `rate` hertz.

        Raises:
            CodecError: it could not.
        """


class Program:
    """What a system needs of the machine: programs by name, and the packages that bring them."""

    programs: tuple[str, ...] = ()
    package = ""

    def missing(self) -> str | None:
        """Which program is not installed."""
        absent = [name for name in self.programs if shutil.which(name) is None]
        if not absent:
            return None
        return f"the program {' and '.join(absent)} is not installed (Debian package {self.package})"


def sound_file(signal: Signal, rate: int, subtype: str = "PCM_16") -> bytes:
    """A wav file of `signal` `(N,)`."""
    buffer = io.BytesIO()
    audio.write(buffer, np.clip(signal, -1, 1)[None], rate, format="wav", subtype=subtype)
    return buffer.getvalue()


def number(spec: str, text: str, low: float, high: float) -> float:
    """The number behind the colon of a system's name.

    Raises:
        ConfigError: it is none, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigError(f"the system {spec!r} needs a number from {low:g} to {high:g} behind the colon")
    return value
