"""Sound files in and out, channel policy and resampling: the only part that touches sound files.

Samples are float32 arrays ``(C, N)``, full scale at 1.0; rates are in hertz. All of it works on blocks, so
a file of any length needs constant memory; the whole-file functions are the block classes fed once, and give
the same samples bit for bit.
"""

from codec.audio.convert import (
    POLICIES,
    RESAMPLER,
    FromModel,
    Plan,
    Resampler,
    ToModel,
    from_model,
    plan,
    to_model,
)
from codec.audio.reader import SUFFIXES, Audio, AudioInfo, Reader, Source, probe, read
from codec.audio.writer import Writer, write

__all__ = [
    "POLICIES",
    "RESAMPLER",
    "SUFFIXES",
    "Audio",
    "AudioInfo",
    "FromModel",
    "Plan",
    "Reader",
    "Resampler",
    "Source",
    "ToModel",
    "Writer",
    "from_model",
    "plan",
    "probe",
    "read",
    "to_model",
    "write",
]
