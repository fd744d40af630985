"""Metrics that stand in for listeners: PESQ, STOI, ViSQOL, DNSMOS; the field's packages do the work."""

from __future__ import annotations

import os
import tempfile
import warnings
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from codec import audio
from codec.errors import ConfigError
from codec.metrics.base import Metric, Signal, Unscorable, check

SPEECH_RATE = 16000  # PESQ-WB, STOI as used here, ViSQOL's speech mode and DNSMOS work at this rate
AUDIO_RATE = 48000
SHORTEST_STOI = 0.4  # seconds: thirty frames that are not silent


def pesq(estimate: Signal, reference: Signal, sample_rate: int, mode: Literal["wb", "nb"] = "wb") -> float:
    """Perceptual evaluation of speech quality, as MOS-LQO (1.0 to 4.64 wideband, 1.0 to 4.55 narrowband).

    ITU-T P.862.2 (wideband), P.862 mapped by P.862.1 (narrowband). At 16 kHz; other rates are resampled.

    Raises:
        Unscorable: no utterance was found, one of the two is silent, or the clip is shorter than 0.25 s.
    """
    import pesq as package

    check(estimate, reference, both=True)
    estimate, reference = (audio.resample(x, sample_rate, SPEECH_RATE) for x in (estimate, reference))
    try:
        return float(package.pesq(SPEECH_RATE, reference, estimate, mode))
    except package.NoUtterancesError:
        raise Unscorable("PESQ found no utterance") from None
    except package.BufferTooShortError:
        raise Unscorable("the clip is too short for PESQ") from None
    except package.PesqError as error:
        raise Unscorable(f"PESQ failed: {error}") from None


def stoi(estimate: Signal, reference: Signal, sample_rate: int, *, extended: bool = False) -> float:
    """Short-time objective intelligibility, 0 to 1 (a correlation: noise can go below 0).

    Taal et al., IEEE TASLP 19(7), 2011; extended: Jensen and Taal, IEEE TASLP 24(11), 2016.

    Raises:
        Unscorable: one of the two is silent, or there is less than 0.4 s that is not.
    """
    import pystoi

    check(estimate, reference, both=True)
    too_short = Unscorable("STOI needs 0.4 s of sound")
    if reference.size < SHORTEST_STOI * sample_rate:
        raise too_short
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough STFT frames")
        try:
            return float(pystoi.stoi(reference, estimate, sample_rate, extended=extended))
        except RuntimeWarning:  # pauses are left out
            raise too_short from None


def visqol(estimate: Signal, reference: Signal, sample_rate: int, mode: Literal["speech", "audio"]) -> float:
    """Virtual speech quality objective listener, as MOS-LQO from 1 to 5.

    Chinen et al., "ViSQOL v3", arXiv 2004.09584. Speech mode works at 16 kHz, audio mode at 48 kHz.

    Raises:
        Unscorable: one of the two is silent, or the clip is too short.
    """
    check(estimate, reference, both=True)
    rate = SPEECH_RATE if mode == "speech" else AUDIO_RATE
    estimate, reference = (audio.resample(x, sample_rate, rate) for x in (estimate, reference))
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{name}.wav") for name in ("reference", "estimate")]
        for path, signal in zip(paths, (reference, estimate), strict=True):
            audio.write(path, np.clip(signal, -1, 1)[None], rate)
        try:
            return float(_visqol(mode).measure(*paths).moslqo)
        except (ValueError, IndexError) as error:
            raise Unscorable(f"ViSQOL failed: {error}") from None


def dnsmos(estimate: Signal, sample_rate: int) -> float:
    """DNSMOS P.835 overall quality, 1 to 5, by the network of the `speechmos` package; needs no original.

    Reddy et al., arXiv 2110.01763. At 16 kHz, windows of 9.01 s each second; a shorter clip is repeated.

    Raises:
        Unscorable: the clip is silent.
    """
    check(estimate, estimate)
    signal = np.clip(audio.resample(estimate, sample_rate, SPEECH_RATE), -1, 1).astype(np.float32)
    length = int(9.01 * SPEECH_RATE)
    signal = np.tile(signal, -(-length // signal.size)) if signal.size < length else signal
    session = _dnsmos()
    scores = []
    for start in range(0, signal.size - length + 1, SPEECH_RATE):
        raw = session.run(None, {"input_1": signal[None, start : start + length]})[0][0]
        scores.append(np.polyval((-0.06766283, 1.11546468, 0.04602535), raw[2]))  # of the published scripts
    return float(np.mean(scores))


@cache
def _visqol(mode: str) -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    # the polynomial of speech mode over-predicts by 1 to 2 MOS, so the lattice network is not optional here
    api.create(mode=mode, use_lattice_model=mode == "speech")
    return api


@cache
def _dnsmos() -> Any:
    import onnxruntime

    found = find_spec("speechmos")
    if found is None or found.origin is None:
        raise ConfigError("dnsmos needs the package speechmos, which is not installed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = Path(found.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class PESQWB(Metric):
    """See `pesq`."""

    name, title, unit = "pesq_wb", "PESQ-WB", "MOS"
    low, high, higher_is_better = 1.0, 4.65, True
    source = "ITU-T P.862.2"
    packages = ("pesq",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return pesq(estimate, reference, sample_rate, "wb")


class PESQNB(Metric):
    """See `pesq`."""

    name, title, unit = "pesq_nb", "PESQ-NB", "MOS"
    low, high, higher_is_better = 1.0, 4.55, True
    source = "ITU-T P.862, P.862.1"
    packages = ("pesq",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return pesq(estimate, reference, sample_rate, "nb")


class STOI(Metric):
    """See `stoi`."""

    name, title = "stoi", "STOI"
    low, high, higher_is_better = -1.0, 1.0, True
    source = "Taal et al. 2011, IEEE TASLP 19(7)"
    packages = ("pystoi",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return stoi(estimate, reference, sample_rate)


class ESTOI(Metric):
    """See `stoi`."""

    name, title = "estoi", "ESTOI"
    low, high, higher_is_better = -1.0, 1.0, True
    source = "Jensen and Taal 2016, IEEE TASLP 24(11)"
    packages = ("pystoi",)

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return stoi(estimate, reference, sample_rate, extended=True)


class VisqolSpeech(Metric):
    """See `visqol`."""

    name, title, unit = "visqol_speech", "ViSQOL speech", "MOS"
    low, high, higher_is_better = 1.0, 5.0, True
    source = "Chinen et al. 2020, arXiv 2004.09584"
    packages = ("visqol", "ai_edge_litert")

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return visqol(estimate, reference, sample_rate, "speech")


class VisqolAudio(Metric):
    """See `visqol`."""

    name, title, unit = "visqol_audio", "ViSQOL audio", "MOS"
    low, high, higher_is_better = 1.0, 5.0, True
    source = "Chinen et al. 2020, arXiv 2004.09584"
    packages = ("visqol", "libsvm")

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return visqol(estimate, reference, sample_rate, "audio")


class DNSMOS(Metric):
    """See `dnsmos`."""

    name, title, unit = "dnsmos", "DNSMOS P.835 overall", "MOS"
    low, high, higher_is_better = 1.0, 5.0, True
    source = "Reddy et al. 2022, arXiv 2110.01763"
    packages = ("speechmos", "onnxruntime")

    def __call__(self, estimate: Signal, reference: Signal, sample_rate: int) -> float:
        return dnsmos(estimate, sample_rate)
