"""Semantic teachers: what a frozen speech model says, when, and how the first codebooks learn it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from conftest import DATA, SPEECH
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from codec import assets
from codec.build import keywords, resolve
from codec.build import make as make_part
from codec.errors import CodecError, ConfigError
from codec.losses.teacher import SemanticTeacher
from codec.semantic import SpeechFeatures
from codec.train.compose import compose
from codec.train.config import parse
from codec.train.export import export
from codec.train.run import train

transformers = pytest.importorskip("transformers")

KINDS = ("hubert", "wavlm", "wav2vec2-bert", "whisper")
LAYERS = 3


def make(kind: str, folder: Path) -> Path:
    """A teacher with random weights, a few thousand of them, saved as published ones are."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    waves = small | {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    if kind == "hubert":
        model = transformers.HubertModel(transformers.HubertConfig(**waves))
        extractor = transformers.Wav2Vec2FeatureExtractor()
    elif kind == "wavlm":
        # as the large ones are: normalised at the end, and fed with a mask
        waves |= {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        model = transformers.WavLMModel(transformers.WavLMConfig(**waves))
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True)
    elif kind == "wav2vec2-bert":
        model = transformers.Wav2Vec2BertModel(
            transformers.Wav2Vec2BertConfig(**small, feature_projection_input_dim=160)
        )
        extractor = transformers.SeamlessM4TFeatureExtractor()
    else:
        halves = {
            f"{half}_{what}": number
            for half in ("encoder", "decoder")
            for what, number in (("layers", LAYERS), ("attention_heads", 2), ("ffn_dim", 32))
        }
        tokens = {
            "vocab_size": 8,
            "pad_token_id": 0,
            "decoder_start_token_id": 1,
            "begin_suppress_tokens": None,
        }
        # hears 2 s instead of 30
        settings = transformers.WhisperConfig(d_model=16, max_source_positions=100, **halves, **tokens)
        model = transformers.WhisperModel(settings)
        extractor = transformers.WhisperFeatureExtractor(chunk_length=2)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind."""
    return {kind: make(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def speech(seconds: float, rate: int = 16000, batch: int = 2) -> Tensor:
    """Different pieces of a recording, `(B, 1, N)`, brought to `rate` without filtering."""
    audio, _ = soundfile.read(SPEECH, dtype="float32", always_2d=True)
    count = round(seconds * rate)
    return torch.from_numpy(audio[16000 : 16000 + batch * count, 0]).view(batch, 1, count).clone()


@pytest.mark.parametrize("layer", [None, 1, LAYERS, "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_published_code(kind: str, layer: Any, teachers: dict[str, Path]) -> None:
    audio = speech(1.0)
    features = SpeechFeatures(str(teachers[kind]), layer=layer, sample_rate=16000)
    found = features(audio)
    model = transformers.AutoModel.from_pretrained(teachers[kind]).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(teachers[kind])
    inputs = extractor(list(audio[:, 0].numpy()), sampling_rate=16000, return_tensors="pt")
    model = model.get_encoder() if kind == "whisper" else model
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    expected = torch.stack(states).mean(0) if layer == "mean" else states[-1 if layer is None else layer]
    assert features.rate == 50
    assert found.shape == (2, {"whisper": 50}.get(kind, 49), features.width)
    torch.testing.assert_close(found, expected[:, : found.shape[1]])


@pytest.mark.parametrize("kind", KINDS)
def test_features_know_when_they_happen(kind: str, teachers: dict[str, Path]) -> None:
    """Another burst in the middle, of equal mean and power, moves the features most where that frame lies."""
    features = SpeechFeatures(str(teachers[kind]), layer=0, sample_rate=16000)
    draw = torch.Generator().manual_seed(0)
    quiet = 1e-3 * torch.randn(1, 1, 16000, generator=draw)
    heard = []
    for _ in range(2):
        burst = torch.randn(320, generator=draw)
        burst = F.normalize(burst - burst.mean(), dim=0)
        audio = quiet.clone()
        audio[0, 0, 7840:8160] = burst
        heard.append(features(audio)[0])
    change = (heard[0] - heard[1]).square().sum(dim=1)
    middle = float((change * torch.arange(len(change))).sum() / change.sum())
    assert middle * features.hop + (features.field - 1) / 2 == pytest.approx(8000, abs=features.hop / 2)


def test_other_rates_and_stereo_are_brought_to_the_teacher(teachers: dict[str, Path]) -> None:
    tone = torch.sin(torch.arange(48000) * 0.05)[None, None]
    at48 = SpeechFeatures(str(teachers["hubert"]), sample_rate=48000)(tone.expand(1, 2, -1))
    at16 = SpeechFeatures(str(teachers["hubert"]), sample_rate=16000)(tone[..., ::3])
    # the ends ring in the resampler
    torch.testing.assert_close(at48[:, 5:-5], at16[:, 5:-5], atol=2e-2, rtol=0)


@pytest.mark.parametrize("hop", [1280, 640, 320, 213, 160])
def test_targets_lie_where_the_codec_frames_lie(hop: int, teachers: dict[str, Path]) -> None:
    """Features that are linear in time come out at the middle of each frame, coarser or finer."""
    teacher = SemanticTeacher(str(teachers["hubert"]), dim=4, sample_rate=16000, hop=hop)

    def clock(audio: Tensor) -> Tensor:
        frames = torch.arange((audio.shape[-1] - 400) // 320 + 1)
        return ((frames * 320 + 199.5) / 16000)[None, :, None].float()

    clock.rate, clock.at = 50, teacher.features.at  # type: ignore[attr-defined]
    teacher.features = clock  # type: ignore[assignment]
    frames = 16000 // hop
    found = teacher.targets(torch.zeros(1, 1, 16000), frames)[0, :, 0]
    middles = (torch.arange(frames) + 0.5) * hop / 16000
    inside = (middles > 0.04) & (middles < 0.96)
    torch.testing.assert_close(found[inside], middles[inside], atol=1e-4, rtol=0)


def test_both_forms(teachers: dict[str, Path]) -> None:
    audio, first = speech(1.0), torch.randn(2, 4, 50)
    for form in ("frame", "channel"):
        teacher = SemanticTeacher(str(teachers["wavlm"]), dim=4, sample_rate=16000, hop=320, form=form)
        pupil, target = teacher.project(first.transpose(1, 2)), teacher.targets(audio, 50)
        if form == "frame":
            cosines = (F.normalize(pupil, dim=2) * F.normalize(target, dim=2)).sum(2)
            expected = (1 - cosines).mean()
        else:
            cosines = (F.normalize(pupil, dim=1) * F.normalize(target, dim=1)).sum(1)
            expected = (1 + (-cosines).exp()).log().mean()
        torch.testing.assert_close(teacher(first, audio)["teacher"], expected)
        assert [name for name, _ in teacher.named_parameters()] == ["project.weight", "project.bias"]
        assert set(teacher.state_dict()) == {"project.weight", "project.bias"}


@pytest.mark.parametrize("name", ["rvq", "split_rvq"])
def test_the_lesson_reaches_the_first_books_and_what_leads_to_them(
    name: str, teachers: dict[str, Path]
) -> None:
    teacher = SemanticTeacher(str(teachers["hubert"]), dim=8, sample_rate=16000, hop=320)
    quantizer = make_part("quantizer", {"name": name, "num_codebooks": 3, "codebook_size": 8}, dim=8).train()
    audio = speech(1.0)
    z = torch.randn(2, 8, 50, requires_grad=True)
    quantizer(z)
    teacher(quantizer(z).first_stage, audio)["teacher"].backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0
    touched = {key for key, p in quantizer.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == ({"in_proj.0.weight", "out_proj.0.weight"} if name == "split_rvq" else set())
    assert teacher.project.weight.grad is not None


def test_a_missing_teacher_is_one_sentence(
    teachers: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: object, sentence: str, **more: Any) -> None:
        with pytest.raises(ConfigError, match=sentence) as error:
            SpeechFeatures(str(source), sample_rate=16000, **more)
        assert "\n" not in str(error.value)

    refused("/nowhere/hubert", "there is no folder /nowhere/hubert")
    refused(tmp_path, "cannot be loaded")
    refused(teachers["hubert"], "layers 0 to 3, mean and null, not 4", layer=4)
    pickled = Path(shutil.copytree(teachers["hubert"], tmp_path / "pickled"))
    weights = transformers.AutoModel.from_pretrained(pickled).state_dict()
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    refused(pickled, "cannot be loaded .*safetensors")
    other = Path(shutil.copytree(teachers["hubert"], tmp_path / "other"))
    settings = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}))
    refused(other, "is a bert; a speech encoder is one of hubert")
    deeper = Path(shutil.copytree(teachers["hubert"], tmp_path / "deeper"))
    (deeper / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 4}))
    refused(deeper, "lack encoder.layers.3")
    monkeypatch.setitem(sys.modules, "transformers", None)
    refused(teachers["hubert"], re.escape(assets.install("semantic")))


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    program = (
        "from codec.errors import ConfigError\n"
        "from codec.semantic import SpeechFeatures\n"
        "try: SpeechFeatures('someone/hubert', sample_rate=16000)\n"
        "except ConfigError as error: print(error)\n"
    )
    # without this the client tries for half a minute
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=settings, timeout=120, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("the speech model 'someone/hubert' cannot be loaded")
    assert "needs a network" in line


def test_crops_that_a_teacher_cannot_hear(teachers: dict[str, Path]) -> None:
    with pytest.raises(CodecError, match=r"cannot take clips of 0\.01 s"):
        SpeechFeatures(str(teachers["hubert"]), sample_rate=16000)(torch.zeros(1, 1, 160))
    with pytest.raises(CodecError, match="cannot take clips of 3 s"):
        SpeechFeatures(str(teachers["whisper"]), sample_rate=16000)(torch.zeros(1, 1, 48000))


RUN = [
    "model=fourier",
    "quantizer=split_rvq",
    "discriminator=none",
    "loss=mel",
    "logger=none",
    "size=tiny",
    "quantizer.num_codebooks=3",
    "quantizer.codebook_size=32",
    "data.samples=6400",
    "batch_limit=2",
    "data.num_workers=0",
    "data.valid_clips=2",
    "data.valid_seconds=0.5",
    "log.every=2",
    "log.clips=0",
    "trainer.val_check_interval=6",
    "train.steps=6",
    f"data.root={DATA}",
]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[dict[str, float], dict[str, Any]]]:
    """Trains a small codec in a folder of the test."""

    def start(name: str, *overrides: str) -> tuple[dict[str, float], dict[str, Any]]:
        return train(compose(*RUN, f"dir={tmp_path / name}", *overrides))

    return start


def test_a_run_with_a_teacher_resumes_to_the_bit_and_exports_without_it(
    run: Callable[..., Any], teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = ["+teacher=hubert", f"loss.teacher.source={teachers['hubert']}"]
    metrics, objects = run("whole", *lesson)
    assert "hubert" in capsys.readouterr().err
    assert 0 < metrics["teacher"] < 1
    run("cut", *lesson, "checkpoint.steps=3", "+trainer.max_steps=3")
    run("cut", *lesson, "resume=true")
    whole, cut = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "cut"))
    assert {"teacher.project.weight", "teacher.project.bias"} <= whole["state_dict"].keys()
    assert not any("features" in name for name in whole["state_dict"])
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, cut["state_dict"][name]), name
    for ours, theirs in zip(whole["optimizer_states"], cut["optimizer_states"], strict=True):
        assert len(ours["state"]) == len(theirs["state"])
        for key, values in ours["state"].items():
            assert all(torch.equal(values[name], theirs["state"][key][name]) for name in values)
    # the map learns with the codec
    fresh = SemanticTeacher(
        str(teachers["hubert"]), dim=objects["codec"].quantizer.dim, sample_rate=16000, hop=320
    )
    assert len(whole["optimizer_states"][0]["state"]) == len(list(objects["codec"].parameters())) + len(
        list(fresh.parameters())
    )
    export(tmp_path / "whole", tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert not any("teacher" in name for name in file.keys())  # noqa: SIM118
    receipt = json.loads((tmp_path / "whole" / "receipt.json").read_text())
    assert receipt["config"]["loss"]["teacher"]["source"] == teachers["hubert"].name


def test_a_teacher_needs_its_weight(run: Callable[..., Any], teachers: dict[str, Path]) -> None:
    spec = f"loss.teacher={{name: semantic_teacher, source: {teachers['hubert']}}}"
    with pytest.raises(ConfigError, match="no weight for 'teacher'"):
        run("run", spec)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (assets.root() / "conf" / "teacher").glob("*.yaml"))
)
def test_configured_teachers_fit_the_class(name: str) -> None:
    loss = parse(compose(f"+teacher={name}")).loss
    assert loss.teacher is not None
    assert loss.weights["teacher"] > 0
    assert set(loss.teacher) - {"name"} <= keywords(resolve("loss", loss.teacher["name"])).keys()
    assert loss.terms, "the group adds to the objective and replaces nothing"


def test_transformers_is_loaded_for_a_teacher_only() -> None:
    program = "import sys, codec.losses.teacher, codec.train.config; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
