"""The header of a token file made for a codec and a source, and read back for a codec."""

from __future__ import annotations

from dataclasses import replace

from codec import audio
from codec.bitstream import RESAMPLERS, Header
from codec.errors import CheckpointError, ConfigError, TokError
from codec.models.codec import Codec

RESAMPLER_NUMBERS = {name: number for number, name in RESAMPLERS.items()}


def make_header(
    codec: Codec, plan: audio.Plan, num_samples: int | None = None, num_codebooks: int | None = None
) -> Header:
    """The header of a token file of `codec` for a source that `plan` fits to it.

    Raises:
        CheckpointError: the codec was not loaded from a file, so nothing could tell later which model it was.
    """
    if "fingerprint" not in codec.metadata:
        raise CheckpointError(
            "this codec has no fingerprint: save it with codec.checkpoint.save and load that"
        )
    sizes = codec.quantizer.codebook_sizes[: legal(codec, num_codebooks)]
    policy = (
        "split"
        if plan.policy == "split"
        else "joint"
        if plan.policy == "keep" and plan.channels > 1
        else "mix"
    )
    return Header(
        fingerprint=bytes.fromhex(codec.metadata["fingerprint"]),
        sample_rate=plan.sample_rate,
        channels=plan.channels,
        hop=codec.hop,
        codebook_sizes=tuple(size for size in sizes for _ in range(plan.streams)),
        num_samples=num_samples,
        model_sample_rate=codec.sample_rate,
        channel_policy=policy,
        resampler=RESAMPLER_NUMBERS[plan.resampler],
    )


def plan_for(codec: Codec, header: Header) -> audio.Plan:
    """How the audio of a token file was fitted to `codec`.

    Raises:
        TokError: the file is of another model.
    """
    ours, theirs = codec.metadata.get("fingerprint"), header.fingerprint.hex()
    if ours != theirs:
        raise TokError(
            f"these tokens are of the model {theirs}, and this is the model {ours}: choose it with --model"
        )
    policy = "split" if header.channel_policy == "split" else "mix"
    plan = audio.plan(header.sample_rate, header.channels, codec.sample_rate, codec.channels, policy)
    count = len(header.codebook_sizes) // plan.streams
    if count not in codec.quantizer.prefixes or header != replace(
        make_header(codec, plan, header.num_samples, count), resampler=header.resampler
    ):
        raise TokError("the header names this model but describes a stream that it does not make")
    return plan


def legal(codec: Codec, num_codebooks: int | None) -> int:
    """The number of codebooks itself, all of them for None.

    Raises:
        ConfigError: the codec has no such prefix.
    """
    prefixes = codec.quantizer.prefixes
    if num_codebooks is None:
        return prefixes[-1]
    if num_codebooks not in prefixes:
        raise ConfigError(
            f"this model has no {num_codebooks} codebooks; it has {', '.join(map(str, prefixes))}"
        )
    return num_codebooks
