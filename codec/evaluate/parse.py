"""From a name on the command line to a system."""

from __future__ import annotations

from collections.abc import Callable

from codec.distort import TokenChannel
from codec.evaluate.baselines import Codec2, Encodec, Ffmpeg, MuLaw, Opus, Original, Resample
from codec.evaluate.system import System
from codec.evaluate.tokens import Tokens

BASELINES = "original, resample:HZ, mulaw[:BITS], opus:KBPS, codec2:MODE, mp3:KBPS, aac:KBPS, encodec:KBPS"


def parse(spec: str, channel: str = "") -> System:
    """The system that `spec` names.

    Args:
        spec: a baseline (see `BASELINES`), or a model's name or path, with `@N` behind it for its first N codebooks.
        channel: what damages the codes of a model, see `TokenChannel`; baselines have none.

    Raises:
        ConfigError: a baseline's setting makes no sense, or the model has no such number of codebooks.
        CheckpointError: there is no such model.
    """
    name, _, value = spec.partition(":")
    if spec == "original":
        return Original()
    if spec == "mulaw":
        return MuLaw(spec)
    if name in ("mp3", "aac") and value:
        return Ffmpeg(spec, value, name)
    kinds: dict[str, Callable[[str, str], System]] = {
        "opus": Opus,
        "codec2": Codec2,
        "encodec": Encodec,
        "resample": Resample,
        "mulaw": MuLaw,
    }
    if name in kinds and value:
        return kinds[name](spec, value)
    return Tokens(spec, TokenChannel.parse(channel) if channel else None)
