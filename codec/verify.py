"""Proof for any model: the same sound gives the same codes, however it arrives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.models.codec import Codec
from codec.ops.threads import threads


@dataclass(slots=True)
class Check:
    """What one way of coding showed, against the whole signal in one call.

    Attributes:
        name: the way.
        trials: how often it was tried.
        codes: codes that were compared.
        flipped: how many of them differed.
        worst: largest difference of a decoded sample; NaN where nothing was decoded.
    """

    name: str
    trials: int = 0
    codes: int = 0
    flipped: int = 0
    worst: float = math.nan

    @property
    def exact(self) -> bool:
        """Every code was the same, and every sample within 1e-5 (rounding of float32)."""
        return self.flipped == 0 and not self.worst > 1e-5

    def compare(
        self, codes: tuple[Tensor, Tensor] | None = None, audio: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Note one trial: codes or samples, as they came and as they should be."""
        self.trials += 1
        if codes is not None:
            self.codes += codes[1].numel()
            same = codes[0].shape == codes[1].shape
            self.flipped += int((codes[0].cpu() != codes[1].cpu()).sum()) if same else codes[1].numel()
        if audio is not None:
            same = audio[0].shape == audio[1].shape
            difference = float((audio[0].cpu() - audio[1].cpu()).abs().max()) if same else math.inf
            self.worst = difference if math.isnan(self.worst) else max(self.worst, difference)


@torch.inference_mode()
def verify(codec: Codec, audio: Tensor, *, trials: int = 10, seed: int = 0) -> list[Check]:
    """Code `audio` in many ways and compare.

    Args:
        codec: in evaluation mode.
        audio: `(1, C, N)` at the codec's rate, a few seconds of real sound.
        trials: random choices for each way.
        seed: of the random choices.

    Returns:
        One check for each way; the last one only where there is another device.
    """
    choose = torch.Generator().manual_seed(seed)
    audio = audio.to(codec.device)
    codes = codec.encode(audio)
    restored = codec.decode(codes)
    checks = [
        _again(codec, audio, codes, restored, trials),
        _chunks(codec, audio, codes, restored, trials, choose),
        _batches(codec, audio, codes, restored, trials, choose),
        _threads(codec, audio, codes, restored),
    ]
    if padded := _padding(codec, audio, codes, trials, choose):
        checks.append(padded)
    if torch.cuda.is_available():
        checks.append(_other_device(codec, audio, codes, restored))
    return checks


def _again(codec: Codec, audio: Tensor, codes: Tensor, restored: Tensor, trials: int) -> Check:
    check = Check("the same call again")
    for _ in range(min(3, trials)):
        check.compare((codec.encode(audio), codes), (codec.decode(codes), restored))
    return check


def _chunks(
    codec: Codec, audio: Tensor, codes: Tensor, restored: Tensor, trials: int, choose: torch.Generator
) -> Check:
    check = Check("in random blocks" if codec.normalises else "streamed in random chunks")
    for _ in range(trials):
        pieces = audio.split(_sizes(audio.shape[-1], codec.hop, choose), dim=-1)
        packets = codes.split(_sizes(codes.shape[-1], 1, choose), dim=-1)
        encoder, decoder = codec.encoder_stream(), codec.decoder_stream()
        encoder.measure(lambda pieces=pieces: pieces)  # type: ignore[misc]
        decoder.measure(lambda packets=packets: packets)  # type: ignore[misc]
        found, heard = (
            torch.cat(list(parts), dim=-1) for parts in (encoder.run(pieces), decoder.run(packets))
        )
        check.compare((found, codes), (heard, restored))
    return check


def _batches(
    codec: Codec, audio: Tensor, codes: Tensor, restored: Tensor, trials: int, choose: torch.Generator
) -> Check:
    check = Check("inside a batch of other sounds")
    for size in _draw(2, 9, trials, choose):
        row = _draw(0, size, 1, choose)[0]
        company = torch.stack([audio[0].roll(731 * (k + 1), -1) * 0.5**k for k in range(size)])
        company[row] = audio[0]
        together = codec.encode(company)
        check.compare((together[row], codes[0]), (codec.decode(together)[row], restored[0]))
    return check


def _threads(codec: Codec, audio: Tensor, codes: Tensor, restored: Tensor) -> Check:
    check = Check("on other numbers of threads")
    for count in (1, 2, 3):
        with threads(count):
            check.compare((codec.encode(audio), codes), (codec.decode(codes), restored))
    return check


def _padding(
    codec: Codec, audio: Tensor, codes: Tensor, trials: int, choose: torch.Generator
) -> Check | None:
    """Silence behind the sound; None where every frame depends on the whole signal, so that it must change them."""
    ahead = codec.encoder_lag
    if math.isinf(ahead):
        return None
    check = Check("with silence behind it")
    known = max(0, (audio.shape[-1] - int(ahead)) // codec.hop)
    for extra in _draw(1, 40 * codec.hop, trials, choose):
        padded = codec.encode(torch.nn.functional.pad(audio, (0, extra)))
        check.compare((padded[..., :known], codes[..., :known]))
    return check


def _other_device(codec: Codec, audio: Tensor, codes: Tensor, restored: Tensor) -> Check:
    here = codec.device
    there = torch.device("cpu" if here.type == "cuda" else "cuda")
    check = Check(f"on the device {there.type}")
    try:
        codec.to(there)
        check.compare((codec.encode(audio.to(there)), codes), (codec.decode(codes.to(there)), restored))
    finally:
        codec.to(here)
    return check


def _sizes(total: int, unit: int, choose: torch.Generator) -> list[int]:
    """Random sizes that add up to `total`: none, a little less or more than a unit, and some long ones."""
    sizes: list[int] = []
    while (left := total - sum(sizes)) > 0:
        longest = unit * (3 if torch.rand((), generator=choose) < 0.8 else 60)
        sizes.append(min(left, _draw(0, longest + 2, 1, choose)[0]))
    return sizes


def _draw(low: int, high: int, count: int, choose: torch.Generator) -> list[int]:
    return torch.randint(low, high, (count,), generator=choose).tolist()
