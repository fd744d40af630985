"""Channel policy and resampling between a recording and a model, and the way back, in blocks of any size."""

from dataclasses import dataclass

import numpy as np
import soxr

from codec.audio.reader import Audio
from codec.errors import AudioError

RESAMPLER = "soxr VHQ"  # recorded in token files: another resampler would give other codes
POLICIES = ("mix", "split", "refuse")


class Resampler:
    """Band-limited change of rate for blocks of any size: soxr, very high quality, linear phase, no delay.

    The joined output does not depend on how the input is cut and has ``ceil(n * rate_out / rate_in)``
    samples.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        if min(rate_in, rate_out) < 1:
            raise AudioError(f"cannot resample from {rate_in} to {rate_out} Hz")
        self._rates, self._channels = (rate_in, rate_out), channels
        self._in = self._out = 0
        self._stream: soxr.ResampleStream | None = None
        if rate_in != rate_out:
            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality="VHQ")

    def push(self, audio: Audio) -> Audio:
        """Takes ``(C, n)`` and returns what is ready, ``(C, m)``."""
        self._in += audio.shape[1]
        return self._resample(audio, last=False) if self._stream else audio

    def flush(self) -> Audio:
        """Ends the stream and returns the rest."""
        if not self._stream:
            return np.zeros((self._channels, 0), np.float32)
        rate_in, rate_out = self._rates
        total, before = -(-self._in * rate_out // rate_in), self._out
        rest = self._resample(np.zeros((self._channels, 0), np.float32), last=True)[:, : total - before]
        return np.pad(rest, ((0, 0), (0, total - before - rest.shape[1])))

    def _resample(self, audio: Audio, *, last: bool) -> Audio:
        assert self._stream is not None
        block: Audio = self._stream.resample_chunk(np.ascontiguousarray(audio.T), last=last).T
        self._out += block.shape[1]
        return np.ascontiguousarray(block)


def resample(audio: Audio, rate_in: int, rate_out: int) -> Audio:
    """Whole signals ``(..., N)`` at another rate, see `Resampler`."""
    rows = audio.reshape(-1, audio.shape[-1])
    resampler = Resampler(rate_in, rate_out, len(rows))
    whole = np.concatenate([resampler.push(rows), resampler.flush()], axis=1)
    return whole.reshape(*audio.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How audio of a source becomes audio of a model: what a token file records and `FromModel` undoes.

    Attributes:
        policy: what happens to the channels. ``keep``: they fit; ``mix``: their mean, and one channel comes
            back; ``duplicate``: mono into each channel of the model, whose mean comes back; ``split``: each
            channel is a stream of its own.
    """

    sample_rate: int
    channels: int
    model_rate: int
    model_channels: int
    policy: str

    @property
    def resampler(self) -> str:
        """Name of the resampler, or ``none`` where the rates are the same."""
        return "none" if self.sample_rate == self.model_rate else RESAMPLER

    @property
    def streams(self) -> int:
        """Number of streams that the model sees as a batch."""
        return self.channels if self.policy == "split" else 1

    @property
    def restored_channels(self) -> int:
        """Channels that come back."""
        return 1 if self.policy == "mix" else self.channels


def plan(sample_rate: int, channels: int, model_rate: int, model_channels: int, policy: str = "mix") -> Plan:
    """Decides how a source fits a model.

    Args:
        sample_rate: of the source, hertz.
        channels: of the source.
        model_rate: of the model, hertz.
        model_channels: of the model.
        policy: for channels that do not fit: ``mix``, ``split`` (mono models only), or ``refuse``.

    Raises:
        AudioError: unknown policy, or one that does not apply.
    """
    if policy not in POLICIES:
        raise AudioError(f"unknown channel policy {policy!r}; choose one of {', '.join(POLICIES)}")
    done = "keep"
    if channels != model_channels:
        if policy == "refuse" or (policy == "split" and model_channels != 1):
            advice = "use the policy mix" + (" or split" if model_channels == 1 else "")
            raise AudioError(f"the audio has {channels} channels and the model {model_channels}; {advice}")
        done = policy if channels > 1 else "duplicate"
    return Plan(sample_rate, channels, model_rate, model_channels, done)


class ToModel:
    """Turns blocks of a source into blocks of a model: channels first, then rate."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        channels = 1 if plan.policy in ("mix", "duplicate") else plan.channels
        self._resampler = Resampler(plan.sample_rate, plan.model_rate, channels)

    def push(self, audio: Audio) -> Audio:
        """Takes ``(C, n)`` of the source, returns ``(S, C, m)`` for the model; S streams make a batch."""
        if self.plan.policy == "mix":
            audio = np.ascontiguousarray(audio).mean(axis=0, keepdims=True, dtype=np.float32)
        return self._shape(self._resampler.push(audio))

    def flush(self) -> Audio:
        """The rest; in all ``ceil(N * model_rate / sample_rate)`` samples have come."""
        return self._shape(self._resampler.flush())

    def _shape(self, audio: Audio) -> Audio:
        if self.plan.policy == "split":
            return audio[:, None]
        if self.plan.policy in ("mix", "duplicate"):
            audio = np.repeat(audio, self.plan.model_channels, axis=0)
        return audio[None]


class FromModel:
    """Turns blocks of a model back into the rate, channels and length of the source.

    Args:
        plan: what `ToModel` did.
        num_samples: length of the source; the output is cut to it, or padded with zeros if it is shorter.
    """

    def __init__(self, plan: Plan, num_samples: int | None = None) -> None:
        self.plan = plan
        self._resampler = Resampler(plan.model_rate, plan.sample_rate, plan.restored_channels)
        self._left = num_samples

    def push(self, audio: Audio) -> Audio:
        """Takes ``(S, C, m)`` of the model, returns ``(C, n)`` of the source."""
        if self.plan.policy in ("mix", "duplicate"):
            audio = audio.mean(axis=1, keepdims=True, dtype=np.float32)
        return self._cut(self._resampler.push(audio.reshape(self.plan.restored_channels, -1)))

    def flush(self) -> Audio:
        """The rest, up to the exact length of the source."""
        rest = self._cut(self._resampler.flush())
        return np.pad(rest, ((0, 0), (0, self._left or 0)))

    def _cut(self, audio: Audio) -> Audio:
        if self._left is None:
            return audio
        audio = audio[:, : self._left]
        self._left -= audio.shape[1]
        return audio


def to_model(
    audio: Audio, sample_rate: int, model_rate: int, model_channels: int, policy: str = "mix"
) -> tuple[Audio, Plan]:
    """Fits a whole recording ``(C, N)`` to a model: ``(S, C, M)`` and what was done; see `plan`."""
    converter = ToModel(plan(sample_rate, audio.shape[0], model_rate, model_channels, policy))
    return np.concatenate([converter.push(audio), converter.flush()], axis=2), converter.plan


def from_model(audio: Audio, plan: Plan, num_samples: int | None = None) -> Audio:
    """Whole output of a model ``(S, C, M)`` back to the source: ``(C, num_samples)``."""
    converter = FromModel(plan, num_samples)
    return np.concatenate([converter.push(audio), converter.flush()], axis=1)
