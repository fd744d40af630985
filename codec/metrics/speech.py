"""Metrics by networks that the user brings: the same voice (speaker similarity), the same words (word error rate)."""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from codec import audio
from codec.errors import ConfigError
from codec.metrics.base import Metric, Signal, Unscorable, check
from codec.semantic import first_line, transformers

REMEMBERED = 64  # originals whose voice and words are kept: all systems of an evaluation hear the same ones
LONGEST = 30.0  # seconds; Whisper takes no more at once, longer clips are taken in windows with time stamps


def speaker_similarity(estimate: Signal, reference: Signal, sample_rate: int, model: str) -> float:
    """Cosine of the angle between the speaker embeddings of two clips, -1 to 1; 1 is the same voice.

    Args:
        estimate: the decoded clip `(N,)`.
        reference: the original `(N,)`.
        sample_rate: of both, in hertz.
        model: folder with weights for transformers' `AutoModelForAudioXVector`, such as WavLM-SV (arXiv 2110.13900).

    Raises:
        Unscorable: one of the two is silent, or too short for the network.
        ConfigError: the folder holds no such network.
    """
    check(estimate, reference, both=True)
    ours = _voice(model, estimate.tobytes(), sample_rate)
    theirs = _remembered_voice(model, reference.tobytes(), sample_rate)
    return float(ours @ theirs / max(float(np.linalg.norm(ours) * np.linalg.norm(theirs)), 1e-12))


def word_error_rate(
    estimate: Signal, reference: Signal, sample_rate: int, model: str, text: str | None = None
) -> float:
    """Words put in, left out or changed, per word of the reference; 0 is best, and more than 1 is possible.

    Case and punctuation do not count. It means nothing for languages that are written without spaces.

    Args:
        estimate: the decoded clip `(N,)`.
        reference: the original `(N,)`.
        sample_rate: of both, in hertz.
        model: folder with a speech recogniser for transformers' pipeline, such as Whisper (arXiv 2212.04356).
        text: what is said; without it, what the same recogniser finds in the original.

    Raises:
        Unscorable: the original is silent, or no word is said in it.
        ConfigError: the folder holds no recogniser.
    """
    from torchmetrics.functional.text import word_error_rate as rate

    check(estimate, reference)
    wanted = words(_remembered_words(model, reference.tobytes(), sample_rate) if text is None else text)
    if not wanted:
        raise Unscorable("the reference has no words")
    recognised = words(transcribe(estimate, sample_rate, model))
    return float(rate(" ".join(recognised), " ".join(wanted)))


def transcribe(signal: Signal, sample_rate: int, model: str) -> str:
    """The text that the recogniser in the folder `model` finds in `(N,)`.

    Raises:
        ConfigError: the folder holds no recogniser.
    """
    listen = _recogniser(model)
    settings = (
        {"return_timestamps": True} if signal.size > LONGEST * sample_rate and _is_whisper(listen) else {}
    )
    rate = listen.feature_extractor.sampling_rate
    return str(
        listen({"raw": audio.resample(signal, sample_rate, rate), "sampling_rate": rate}, **settings)["text"]
    )


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation; an apostrophe inside a word stays."""
    plain = "".join(c if c.isalnum() or c == "'" else " " for c in text.casefold().replace("’", "'"))
    return [word for part in plain.split() if (word := part.strip("'"))]


def _voice(model: str, samples: bytes, sample_rate: int) -> np.ndarray:
    extractor, network = _speaker_network(model)
    rate = extractor.sampling_rate
    signal = audio.resample(np.frombuffer(samples, np.float32), sample_rate, rate)
    inputs = extractor(signal, sampling_rate=rate, return_tensors="pt")
    try:
        with torch.inference_mode():
            return network(**inputs).embeddings[0].double().numpy()
    except RuntimeError:
        raise Unscorable("the clip is too short for the speaker network") from None


_remembered_voice = lru_cache(REMEMBERED)(_voice)


@lru_cache(REMEMBERED)
def _remembered_words(model: str, samples: bytes, sample_rate: int) -> str:
    return transcribe(np.frombuffer(samples, np.float32), sample_rate, model)


@cache
def _speaker_network(folder: str) -> tuple[Any, Any]:
    package = transformers()
    try:
        extractor = package.AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        network = package.AutoModelForAudioXVector.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:  # whatever a broken folder makes transformers raise
        raise ConfigError(
            f"{folder} holds no speaker network that can be used ({first_line(error)})"
        ) from None
    return extractor, network.eval()


@cache
def _recogniser(folder: str) -> Any:
    package = transformers()
    try:
        return package.pipeline(
            "automatic-speech-recognition",
            model=folder,
            device="cpu",
            dtype=torch.float32,
            model_kwargs={"use_safetensors": True},  # pickles are never opened
        )
    except Exception as error:  # whatever a broken folder makes transformers raise
        raise ConfigError(
            f"{folder} holds no speech recogniser that can be used ({first_line(error)})"
        ) from None


def _is_whisper(listen: Any) -> bool:
    return bool(listen.model.config.model_type == "whisper")


class NetworkMetric(Metric):
    """A metric that needs a folder with a network.

    Attributes:
        what: the network is, in a few words.
        option: of `codec eval` that names the folder.

    Args:
        model: the folder.
        text: what is said in the clip, where it is known.
    """

    what: ClassVar[str]
    option: ClassVar[str]
    extra = "semantic"

    def __init__(self, model: str | None = None, text: str | None = None) -> None:
        self.model = model
        self.text = text

    def missing(self) -> str | None:
        if (why := super().missing()) is not None:
            return why
        if self.model is None:
            return f"{self.name} needs {self.what} that you have: give its folder with {self.option}"
        if not Path(self.model, "config.json").is_file():
            return f"{self.name} needs {self.what}: {self.model} is not a folder with a config.json"
        return None


class SpeakerSimilarity(NetworkMetric):
    """See `speaker_similarity`."""

    name, title = "speaker_similarity", "speaker similarity"
    low, high, higher_is_better = -1.0, 1.0, True
    source = "cosine of x-vectors; Chen et al. 2021, WavLM, arXiv 2110.13900"
    packages = ("transformers",)
    what, option = "a speaker network", "--speaker-model"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return speaker_similarity(estimate, reference, sample_rate, str(self.model))


class WordErrorRate(NetworkMetric):
    """See `word_error_rate`."""

    name, title = "wer", "word error rate"
    low, high, higher_is_better = 0.0, float("inf"), False
    source = "Levenshtein distance of words; recogniser e.g. Radford et al. 2022, Whisper, arXiv 2212.04356"
    packages = ("transformers", "torchmetrics")
    what, option = "a speech recogniser", "--asr-model"

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return word_error_rate(estimate, reference, sample_rate, str(self.model), self.text)
