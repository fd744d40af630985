"""Validation clips as sound and as mel spectrograms, original and decoded, for TensorBoard."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from codec.nn.spectrogram import STFT, mel_filters
from codec.train.task import CodecTask


class Pictures(Callback):
    """Write the first clips of every validation.

    Args:
        clips: how many.
    """

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self._written = 0
        self._originals = False

    def on_validation_start(self, trainer: Trainer, pl_module: CodecTask) -> None:  # type: ignore[override]
        """Count from the first clip again."""
        self._written = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: CodecTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write what is still wanted of this batch; the originals only once."""
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger) or not trainer.is_global_zero:
                continue
            rate = pl_module.codec.sample_rate
            for original, decoded in zip(batch["audio"], outputs["estimate"], strict=True):
                if self._written >= self.clips:
                    break
                name, writer, step = f"clip_{self._written}", logger.experiment, trainer.global_step
                if not self._originals:
                    writer.add_audio(f"{name}/original", _sound(original), step, rate)
                writer.add_audio(f"{name}/decoded", _sound(decoded), step, rate)
                picture = torch.cat([log_mel(original, rate), log_mel(decoded, rate)])
                writer.add_image(f"{name}/mel (original above)", paint(picture), step)
                self._written += 1
        self._originals = True


def log_mel(audio: Tensor, rate: int, bands: int = 80) -> Tensor:
    """Mel spectrogram `(bands, frames)` of audio `(C, N)`, low bands below, in dB from -80 to 0 of its loudest bin."""
    mono = audio.detach().float().cpu().mean(dim=0, keepdim=True)[None]
    power = STFT(1024, 256)(mono).abs().square()[0, 0]
    mel = (power @ mel_filters(rate, 1024, bands)).clamp(min=1e-10).log10() * 10
    return (mel - mel.max()).clamp(min=-80).T.flip(0)


def paint(picture: Tensor) -> Tensor:
    """Colours `(3, H, W)` in [0, 1] of levels `(H, W)` from -80 to 0 dB."""
    from matplotlib import colormaps  # half a second, once and only if pictures are wanted

    return torch.from_numpy(colormaps["magma"](((picture + 80) / 80).numpy())[..., :3]).permute(2, 0, 1)


def _sound(audio: Tensor) -> Tensor:
    """One channel, in range: what TensorBoard plays."""
    return audio.detach().float().cpu().mean(dim=0).clamp(-1, 1)
