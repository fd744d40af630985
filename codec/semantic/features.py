"""Features of frozen speech models, frame by frame."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from codec.audio import resample
from codec.errors import CodecError, ConfigError
from codec.semantic.hub import first_line, transformers

KINDS = ("hubert", "wavlm", "wav2vec2-bert", "whisper")
NEEDED = "config.json, preprocessor_config.json and model.safetensors"


class SpeechFeatures:
    """Hidden states of a frozen HuBERT, WavLM, w2v-BERT 2.0 or Whisper encoder of `transformers`.

    It is no module on purpose: no optimiser and no checkpoint sees its weights, and `train()` does not reach it.
    Frame j is about the samples around `j * hop + (field - 1) / 2`, at 16 kHz for all published models.

    Args:
        source: folder with config.json, preprocessor_config.json and model.safetensors, or a name on the hub.
        layer: of the hidden states, 0 to the number of layers; None is the last one, `mean` the mean of all.
        sample_rate: of the audio it is given, in Hz.

    Attributes:
        width: of its features, W.
        rate: its frames per second.

    Raises:
        ConfigError: transformers is not installed, the weights cannot be had, or the layer does not exist.
    """

    def __init__(self, source: str, *, layer: int | Literal["mean"] | None = None, sample_rate: int) -> None:
        self.source = source
        config, self._extract, self._model = _load(source)
        count = config.num_hidden_layers
        if layer not in (None, "mean") and not (isinstance(layer, int) and 0 <= layer <= count):
            raise ConfigError(
                f"the speech model {source!r} has layers 0 to {count}, mean and null, not {layer!r}"
            )
        self.layer = layer
        if isinstance(layer, int):
            # later layers are not needed; one more than needed keeps the last norm away from it
            del self._model_layers()[layer + 1 :]
        self.kind: str = config.model_type
        self.width: int = config.hidden_size
        self.hop, self.field = _geometry(config, self._extract)
        self._sample_rate, self._rate = sample_rate, self._extract.sampling_rate
        self.rate = self._rate / self.hop
        self._longest = getattr(self._extract, "n_samples", None) if self.kind == "whisper" else None

    def _model_layers(self) -> nn.ModuleList:
        return getattr(self._model, "encoder", self._model).layers

    @property
    def size(self) -> int:
        """Number of its weights."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """Features `(B, T', W)` in float32 of audio `(B, C, N)`; channels are mixed.

        Raises:
            CodecError: the audio is shorter than a frame, or longer than Whisper's 30 seconds.
        """
        if self._model.device != audio.device:
            self._model.to(audio.device)
        mono = resample(audio.float().mean(dim=1).cpu().numpy(), self._sample_rate, self._rate)
        count = (mono.shape[1] - self.field) // self.hop + 1
        if count < 1 or mono.shape[1] > (self._longest or math.inf):
            seconds = mono.shape[1] / self._rate
            raise CodecError(f"the speech model {self.source!r} cannot take clips of {seconds:.3g} s")
        inputs = self._extract(list(mono), sampling_rate=self._rate, return_tensors="pt")
        if self.kind != "wav2vec2-bert":  # whose last frame may be half a one
            inputs.pop("attention_mask", None)  # crops are equally long: it says nothing
        states = self._model(**inputs.to(audio.device), output_hidden_states=True).hidden_states
        if self.layer == "mean":
            found = torch.stack([state.float() for state in states]).mean(dim=0)
        else:
            found = states[-1 if self.layer is None else self.layer].float()
        # what lies beyond is the silence that fills up Whisper's 30 s, or half a frame of w2v-BERT
        return found[:, :count]

    def at(self, times: Tensor, features: Tensor) -> Tensor:
        """Features `(B, T', W)` at times `(n,)` in seconds, between frames by linear interpolation: `(B, n, W)`."""
        last = features.shape[1] - 1
        place = ((times * self._rate - (self.field - 1) / 2) / self.hop).clamp(0, last)
        low = place.floor().long()
        share = (place - low)[:, None].to(features)
        return torch.lerp(features[:, low], features[:, (low + 1).clamp(max=last)], share)


def _load(source: str) -> tuple[Any, Any, Any]:
    """Configuration, feature extractor and model in evaluation mode."""
    package = transformers()
    folder = Path(source).expanduser()
    if source.startswith(("/", ".", "~")) or source.count("/") > 1:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {source} with a speech model's {NEEDED}")
        source = str(folder)
    try:
        config = package.AutoConfig.from_pretrained(source)
        if config.model_type not in KINDS:
            raise ConfigError(
                f"{source} is a {config.model_type}; a speech encoder is one of {', '.join(KINDS)}"
            )
        extractor = package.AutoFeatureExtractor.from_pretrained(source)
        # pickles are never opened
        model, report = package.AutoModel.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True
        )
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the speech model {source!r} cannot be loaded ({first_line(error)}): give a folder with {NEEDED}, or a "
            "name on the Hugging Face hub, which needs a network the first time"
        ) from error
    if config.model_type == "whisper":
        model = model.get_encoder()
    # this one is for masks in the model's own training; any other would now hold random numbers
    missing = sorted(name for name in report["missing_keys"] if "masked_spec_embed" not in name)
    if missing:
        raise ConfigError(
            f"the weights of the speech model {source!r} lack {missing[0]} and {len(missing) - 1} more"
        )
    return config, extractor, model.eval().float().requires_grad_(False)


def _geometry(config: Any, extractor: Any) -> tuple[int, int]:
    """Samples between the frames of a model, and samples that a frame is about."""
    if config.model_type == "whisper":
        # frames are centred on their sample; the encoder's second convolution halves their number
        return 2 * extractor.hop_length, 1
    if config.model_type == "wav2vec2-bert":
        # Kaldi's frames of 25 ms every 10 ms, a few of them side by side
        return 160 * extractor.stride, 400 + 160 * (extractor.stride - 1)
    hop, field = 1, 1
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field
