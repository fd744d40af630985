"""Speaker similarity and word error rate, by tiny random networks that the test builds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from codec import audio, metrics
from codec.cli import app
from codec.errors import ConfigError
from codec.metrics import Unscorable
from codec.metrics.speech import speaker_similarity, transcribe, word_error_rate, words

transformers = pytest.importorskip("transformers")
pytest.importorskip("torchmetrics")
DATA = Path(__file__).parent / "data"
RATE = 16000
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": [8] * 7,
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.read(DATA / "speech.flac", frames=2 * RATE)[0][0]


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch

    torch.manual_seed(0)
    folder = str(tmp_path_factory.mktemp("speaker"))
    config = transformers.WavLMConfig(
        **SMALL,
        tdnn_dim=[16, 16],
        tdnn_kernel=[3, 1],
        tdnn_dilation=[1, 1],
        xvector_output_dim=16,
        num_labels=3,
    )
    transformers.WavLMForXVector(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("recogniser")
    letters = {token: k for k, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghij"])}
    (folder / "vocab.json").write_text(json.dumps(letters))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(folder)
    network = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SMALL, vocab_size=len(letters)))
    with torch.no_grad():
        network.lm_head.weight.mul_(100)  # else the same letter wins everywhere
    network.save_pretrained(folder)
    return str(folder)


def test_a_copy_has_the_same_voice(speech: np.ndarray, speaker: str) -> None:
    other = audio.read(sorted(DATA.glob("librispeech_*.flac"))[0], frames=2 * RATE)[0][0]
    assert speaker_similarity(speech, speech, RATE, speaker) == pytest.approx(1, abs=1e-6)
    assert -1 <= speaker_similarity(other, speech, RATE, speaker) < 1 - 1e-6
    swapped = speaker_similarity(speech, other, RATE, speaker)
    assert speaker_similarity(other, speech, RATE, speaker) == pytest.approx(swapped, abs=1e-6)
    with pytest.raises(Unscorable, match="silent"):
        speaker_similarity(0 * speech, speech, RATE, speaker)
    with pytest.raises(Unscorable, match="too short"):
        speaker_similarity(speech[:100], speech[:100], RATE, speaker)


def test_words_of_the_original_or_of_the_manifest(speech: np.ndarray, recogniser: str) -> None:
    heard = words(transcribe(speech, RATE, recogniser))
    assert heard, "the random network must say something, else this test tests nothing"
    assert word_error_rate(speech, speech, RATE, recogniser) == 0
    assert word_error_rate(speech, speech, RATE, recogniser, " ".join(heard) + " extra") == pytest.approx(
        1 / (len(heard) + 1)
    )
    reversed_speech = np.ascontiguousarray(speech[::-1])
    assert word_error_rate(reversed_speech, speech, RATE, recogniser) > 0
    with pytest.raises(Unscorable, match="no words"):
        word_error_rate(speech, speech, RATE, recogniser, "...")


def test_other_rates_are_resampled(speech: np.ndarray, recogniser: str) -> None:
    doubled = audio.to_model(speech[None], RATE, 2 * RATE, 1)[0][0, 0]
    assert transcribe(doubled, 2 * RATE, recogniser) != ""


def test_case_and_punctuation_are_no_words() -> None:
    assert words("“Don’t — stop”, he said: 'NOW'!") == ["don't", "stop", "he", "said", "now"]
    assert words(" ?!") == []


def test_missing_models_are_told(tmp_path: Path, speaker: str) -> None:
    assert metrics.get("wer").missing() == (
        "wer needs a speech recogniser that you have: give its folder with --asr-model"
    )
    assert "is not a folder with a config.json" in str(metrics.get("wer", model=str(tmp_path)).missing())
    assert metrics.get("speaker_similarity", model=speaker).missing() is None
    (tmp_path / "config.json").write_text("{}")
    clip = np.ones(RATE, np.float32)
    with pytest.raises(ConfigError, match="holds no speech recogniser"):
        transcribe(clip, RATE, str(tmp_path))
    with pytest.raises(ConfigError, match="holds no speaker network"):
        speaker_similarity(clip, clip, RATE, str(tmp_path))


def test_on_the_command_line(tmp_path: Path, speaker: str, recogniser: str, speech: np.ndarray) -> None:
    audio.write(tmp_path / "a.wav", speech[None], RATE)
    audio.write(tmp_path / "b.wav", speech[None, ::-1], RATE)
    rows = [{"path": "a.wav", "text": "Words that nobody said"}, {"path": "b.wav"}]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["eval", "original", "mulaw:3", "--data", str(tmp_path / "clips.jsonl"), "--jobs", "1"]
    command += ["--metrics", "si_sdr", "--speaker-model", speaker, "--no-checks"]

    done = CliRunner().invoke(app, [*command, "--asr-model", recogniser, "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    lines = (tmp_path / "o" / "clips.csv").read_text().splitlines()
    assert [name for name in ("speaker_similarity", "wer") if name in lines[0].split(",")]
    assert summary["original"]["speaker_similarity"]["mean"] == pytest.approx(1, abs=1e-3)
    assert (
        summary["mulaw:3"]["speaker_similarity"]["mean"] < summary["original"]["speaker_similarity"]["mean"]
    )
    expected = word_error_rate(speech, speech, RATE, recogniser, "Words that nobody said")
    assert expected > 0
    assert summary["original"]["wer"]["mean"] == pytest.approx(expected / 2)  # nothing is wrong with b.wav

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    done = CliRunner().invoke(app, [*command, "--asr-model", str(broken), "--out", str(tmp_path / "o")])
    assert done.exit_code == 0, done.output
    assert "holds no speech recogniser that can be used" in done.output
    assert json.loads((tmp_path / "o" / "summary.json").read_text())["original"]["si_sdr"]["count"] == 2
