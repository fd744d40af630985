"""The screen at the start of a run: what is trained, on what, how much of it."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codec.models.codec import Codec
from codec.train.config import RunConfig
from codec.train.data import EndlessData
from codec.train.task import CodecTask


def screen(config: RunConfig, task: CodecTask, data: EndlessData, trainer: Trainer) -> Table:
    """Shape, parameters, multiply-adds, bitrate, effective batch, hours of data, length of the run."""
    codec, codebooks = task.codec, task.codec.quantizer.codebook_sizes
    macs = multiply_adds(codec)
    seconds = config.data["samples"] / codec.sample_rate
    batch = data.batch_size * trainer.world_size
    steps = trainer.max_steps
    rows = {
        "audio": f"{codec.sample_rate} Hz, {_plural(codec.channels, 'channel')}, hop {codec.hop}, "
        f"{codec.frame_rate:g} frames/s, {'causal' if codec.causal else 'not causal'}",
        "codes": f"{_plural(len(codebooks), 'codebook')} of {_sizes(codebooks)}, {codec.bitrate() / 1000:g} kbps"
        + _prefixes(codec),
        "parameters": ", ".join(
            f"{name} {count / 1e6:.2f} M" for name, count in parameters(task).items() if count
        ),
        "multiply-adds": ", ".join(f"{name} {count / 1e9:.2f} G" for name, count in macs.items())
        + " per second of audio",
        "teacher": _teacher(task),
        "start": f"the weights of {config.weights}" if task.pretrained else "",
        "batch": f"{batch} crops of {seconds:.2f} s"
        + (f" ({trainer.world_size} processes of {data.batch_size})" if trainer.world_size > 1 else "")
        + f", {trainer.precision}",
        "data": f"{data.summary['hours']:g} h in {_plural(data.summary['files'], 'file')}, "
        f"{data.batches_per_epoch} batches per pass; {_plural(data.summary['valid_clips'], 'validation clip')}",
        "run": f"{steps} steps = {steps / data.batches_per_epoch:.1f} passes = "
        f"{steps * batch * seconds / 3600:.1f} h of audio, in {config.dir}",
    }
    table = Table(title=config.name, show_header=False, box=None, title_justify="left", pad_edge=False)
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def parameters(task: CodecTask) -> dict[str, int]:
    """Trained numbers of each part."""
    codec = task.codec
    parts = {"encoder": codec.encoder, "quantizer": codec.quantizer, "decoder": codec.decoder}
    found = {name: _count(part) for name, part in parts.items()}
    return found | {"discriminators": _count(task.discriminators) if task.discriminators else 0}


def multiply_adds(codec: Codec) -> dict[str, float]:
    """Multiply-adds of encoder and decoder per second of audio, in matrix products and convolutions."""
    frames = max(4, round(codec.sample_rate / codec.hop / 4))
    seconds = frames * codec.hop / codec.sample_rate
    inputs = {
        "encoder": torch.zeros(1, codec.channels, frames * codec.hop, device=codec.device),
        "decoder": torch.zeros(1, codec.quantizer.dim, frames, device=codec.device),
    }
    counts = {}
    for name, x in inputs.items():
        # with gradients: without them products are split into tiles that the counter does not count
        with FlopCounterMode(display=False) as counter, torch.enable_grad():
            getattr(codec, name)(x)
        counts[name] = counter.get_total_flops() / 2 / seconds
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _teacher(task: CodecTask) -> str:
    if task.teacher is None:
        return ""
    features: Any = task.teacher.features
    layer = "last layer" if features.layer is None else f"layer {features.layer}"
    return (
        f"{features.kind}, {features.size / 1e6:.1f} M weights, frozen, {layer} of {features.width} channels, "
        f"{features.rate:g} frames/s"
    )


def _sizes(codebooks: tuple[int, ...]) -> str:
    return str(codebooks[0]) if len(set(codebooks)) == 1 else ", ".join(map(str, codebooks))


def _prefixes(codec: Codec) -> str:
    prefixes = codec.quantizer.prefixes[:-1]
    if not prefixes:
        return ""
    rates = [codec.bitrate(codebooks) / 1000 for codebooks in prefixes]
    span = f"{rates[0]:g}" if len(rates) == 1 else f"{min(rates):g} to {max(rates):g}"
    return f" (first codebooks alone: {span})"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
