"""Measures of decoded audio and of tokens: each a function, and a class that says what its number means."""

from codec.errors import ConfigError
from codec.metrics.base import Metric, Unscorable
from codec.metrics.perceptual import DNSMOS, ESTOI, PESQNB, PESQWB, STOI, VisqolAudio, VisqolSpeech
from codec.metrics.pitch import F0Error, VoicingAgreement
from codec.metrics.signal import SISDR, SNR
from codec.metrics.spectral import LogSpectralDistance, MelDistance, STFTDistance
from codec.metrics.speech import NetworkMetric, SpeakerSimilarity, WordErrorRate
from codec.metrics.tokens import CodebookStatistics, codebook_statistics, count, stability

METRICS: dict[str, type[Metric]] = {
    metric.name: metric
    for metric in (
        PESQWB,
        PESQNB,
        STOI,
        ESTOI,
        SISDR,
        SNR,
        MelDistance,
        STFTDistance,
        LogSpectralDistance,
        F0Error,
        VoicingAgreement,
        VisqolSpeech,
        VisqolAudio,
        DNSMOS,
        SpeakerSimilarity,
        WordErrorRate,
    )
}
# seconds a clip: only where asked for
SLOW = ("visqol_speech", "visqol_audio", "dnsmos", "speaker_similarity", "wer")


def get(name: str, *, model: str | None = None, text: str | None = None) -> Metric:
    """The metric of that name.

    Args:
        name: one of `METRICS`.
        model: folder of the network, for a metric that needs one.
        text: what is said in the clip, for the metrics that compare words.

    Raises:
        ConfigError: there is none.
    """
    if name not in METRICS:
        raise ConfigError(f"there is no metric {name!r}; there are {', '.join(METRICS)}")
    kind = METRICS[name]
    return kind(model, text) if issubclass(kind, NetworkMetric) else kind()


__all__ = [
    "DNSMOS",
    "ESTOI",
    "METRICS",
    "PESQNB",
    "PESQWB",
    "SISDR",
    "SLOW",
    "SNR",
    "STOI",
    "CodebookStatistics",
    "F0Error",
    "LogSpectralDistance",
    "MelDistance",
    "Metric",
    "NetworkMetric",
    "STFTDistance",
    "SpeakerSimilarity",
    "Unscorable",
    "VisqolAudio",
    "VisqolSpeech",
    "VoicingAgreement",
    "WordErrorRate",
    "codebook_statistics",
    "count",
    "get",
    "stability",
]
