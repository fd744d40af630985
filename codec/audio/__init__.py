"""Sound files in and out, channel policy and resampling: the only part that touches sound files.

Samples are float32 arrays ``(C, N)``, full scale at 1.0; rates are in hertz. All of it works on blocks, so
a file of any length needs constant memory; the whole-file functions are the block classes fed once, and give
the same samples bit for bit.
"""

from codec.audio.containers import View
from codec.audio.convert import (
    POLICIES,
    RESAMPLER,
    FromModel,
    Plan,
    Resampler,
    ToModel,
    from_model,
    plan,
    resample,
    to_model,
)
from codec.audio.folders import Walk, walk
from codec.audio.meter import Meter
from codec.audio.reader import (
    FULL_SCALE_LIMIT,
    MAX_CHANNELS,
    MAX_RATE,
    SUFFIXES,
    Audio,
    AudioInfo,
    Reader,
    Source,
    name_of,
    probe,
    read,
)
from codec.audio.writer import Writer, write

__all__ = [
    "FULL_SCALE_LIMIT",
    "MAX_CHANNELS",
    "MAX_RATE",
    "POLICIES",
    "RESAMPLER",
    "SUFFIXES",
    "Audio",
    "AudioInfo",
    "FromModel",
    "Meter",
    "Plan",
    "Reader",
    "Resampler",
    "Source",
    "ToModel",
    "View",
    "Walk",
    "Writer",
    "from_model",
    "name_of",
    "plan",
    "probe",
    "read",
    "resample",
    "to_model",
    "walk",
    "write",
]
