"""The command line on real files: what it makes, and one clear sentence for everything that cannot be."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import DATA, SPEECH, make_model
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from codec.bitstream import read_tok
from codec.build import build
from codec.cli import app

SUBPROCESS = [sys.executable, "-c", "from codec.cli import main; main()"]


@pytest.fixture
def codec(tiny_model, tmp_path, monkeypatch):
    """Run `codec VERB ...` in an empty folder, with the tiny model where the verb takes one."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, *arguments: object, model: object = tiny_model, stdin: bytes | None = None) -> Result:
        chosen = ["--model", str(model)] if verb in ("encode", "decode") and model else []
        return CliRunner().invoke(app, [verb, *map(str, arguments), *chosen], input=stdin)

    return run


def wav(path: Path, samples: Any, rate: int = 16000, **settings: Any) -> Path:
    soundfile.write(path, samples, rate, **settings)
    return path


def refused(result: Result, words: str) -> None:
    """One sentence on standard error, exit code 1, nothing on standard output."""
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("codec: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
    assert result.stdout == ""
    assert result.exception is None or isinstance(result.exception, SystemExit)


def folder() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_a_file_there_and_back(codec):
    done = codec("encode", SPEECH, "out.tok")
    assert done.exit_code == 0, done.output
    size = os.path.getsize("out.tok")
    assert done.stdout == f"out.tok: 9.91 s, 4 x 496 tokens, {size} bytes, {8 * size / 9913:.2f} kbps\n"
    assert codec("decode", "out.tok", "back.wav").exit_code == 0
    before, after = soundfile.info(SPEECH), soundfile.info("back.wav")
    assert (after.samplerate, after.frames, after.channels) == (before.samplerate, before.frames, 1)
    assert folder() == ["back.wav", "out.tok"]


def test_the_number_of_books_and_the_bit_rate(codec):
    for option, codebooks in [("-n 1", 1), ("--codebooks 3", 3), ("--kbps 0.6", 2), ("--kbps 99", 4)]:
        assert codec("encode", SPEECH, "a.tok", "--force", *option.split()).exit_code == 0
        assert len(read_tok("a.tok")[1]) == codebooks
    refused(codec("encode", SPEECH, "b.tok", "--codebooks", 5), "no 5 codebooks; it has 1, 2, 3, 4")
    refused(codec("encode", SPEECH, "b.tok", "--kbps", 0.1), "lowest bit rate of this model is 0.3 kbps")
    assert folder() == ["a.tok"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "a", "b", "c"],
        ["encode", "a", "b", "--codebooks", "0"],
        ["encode", "a", "b", "--codebooks", "many"],
        ["encode", "a", "b", "--codebooks", "1", "--kbps", "6"],
        ["decode", "a", "b", "--kbps", "6"],
        ["encode", "a", "b", "--model"],
        ["info"],
        ["info", "a", "--system"],
        ["transmogrify"],
    ],
)
def test_wrong_usage_exits_with_2(codec, arguments):
    assert codec(*arguments, model=None).exit_code == 2


def test_standard_input_and_output(codec):
    tokens = codec("encode", "-", "-", stdin=SPEECH.read_bytes())
    assert tokens.exit_code == 0
    assert codec("encode", SPEECH, "a.tok").exit_code == 0
    # a file object has no name to tell, and nothing else differs
    assert tokens.stdout_bytes == Path("a.tok").read_bytes()
    sound = codec("decode", "-", "-", stdin=tokens.stdout_bytes)
    assert codec("decode", "a.tok", "a.wav").exit_code == 0
    assert sound.stdout_bytes == Path("a.wav").read_bytes()
    refused(codec("encode", "-", "b.tok", stdin=b""), "is empty")
    refused(codec("decode", "-", "b.wav", stdin=b"RIFF"), "not a .tok file")
    assert folder() == ["a.tok", "a.wav"]


def test_a_folder_is_mirrored(codec):
    for name in ("in/a.wav", "in/deep/er/b.flac", "in/deep/b.ogg", "in/same.wav", "in/same.flac"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        wav(Path(name), 0.1 * np.random.default_rng(0).standard_normal(16000))
    Path("in/notes.txt").write_text("not a sound")
    done = codec("encode", "in", "out")
    assert done.exit_code == 0, done.output
    made = {"out/a.tok", "out/deep/er/b.tok", "out/deep/b.tok", "out/same.wav.tok", "out/same.flac.tok"}
    assert made == {name for name in folder() if name.startswith("out")}
    assert done.stdout == "5 of 5 files encoded, 0 failed\n"
    assert codec("decode", "out", "back").stdout == "5 of 5 files decoded, 0 failed\n"
    assert soundfile.info("back/deep/er/b.wav").frames == 16000


def test_a_folder_goes_on_after_a_failure_and_says_so(codec):
    Path("in").mkdir()
    for name in "abc":
        wav(Path("in", f"{name}.wav"), np.zeros(800))
    Path("in/bad.wav").write_bytes(b"not a sound")
    done = codec("encode", "in", "out")
    assert (done.exit_code, done.stdout) == (1, "3 of 4 files encoded, 1 failed\n")
    assert done.stderr == "codec: in/bad.wav: not a sound file (wav, flac, ogg, opus and mp3 can be read)\n"
    os.unlink("out/a.tok")
    again = codec("encode", "in", "out")
    assert again.exit_code == 1
    assert again.stdout == "1 of 4 files encoded, 1 failed, 2 left alone because they exist (--force)\n"
    os.unlink("in/bad.wav")
    assert codec("encode", "in", "out", "--force").stdout == "3 of 3 files encoded, 0 failed\n"


UNUSUAL = {
    "one sample": (np.zeros(1), 16000),
    "silence": (np.zeros(16000), 16000),
    "clipped": (np.clip(9 * np.random.default_rng(0).standard_normal(16000), -1, 1), 16000),
    "8 kHz": (np.random.default_rng(0).uniform(-0.1, 0.1, 8001), 8000),
    "192 kHz": (np.random.default_rng(0).uniform(-0.1, 0.1, 192001), 192000),
    "8 channels": (np.random.default_rng(0).uniform(-0.1, 0.1, (16001, 8)), 16000),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_sound_is_still_sound(codec, name):
    samples, rate = UNUSUAL[name]
    wav(Path("in.wav"), samples, rate)
    assert codec("encode", "in.wav", "a.tok").exit_code == 0
    assert codec("decode", "a.tok", "out.wav").exit_code == 0
    out = soundfile.info("out.wav")
    assert (out.samplerate, out.frames) == (rate, len(samples))


def broken(samples: int, value: float) -> np.ndarray:
    bad = np.zeros(samples, np.float32)
    bad[samples // 2] = value
    return bad


NOT_SOUND = {
    "text": (lambda: Path("in.wav").write_text("hello"), "in.wav: not a sound file"),
    "empty": (lambda: Path("in.wav").touch(), "in.wav: is empty"),
    "no samples": (lambda: wav(Path("in.wav"), np.zeros(0)), "in.wav: contains no samples"),
    "NaN": (
        lambda: wav(Path("in.wav"), broken(900, np.nan), subtype="FLOAT"),
        "sample 450 is not a finite number",
    ),
    "infinity": (
        lambda: wav(Path("in.wav"), broken(900, -np.inf), subtype="FLOAT"),
        "sample 450 is not a finite",
    ),
    "cut": (lambda: Path("in.wav").write_bytes(SPEECH.read_bytes()[:50000]), "in.wav"),
    "a .tok": (lambda: Path("in.wav").write_bytes(b"\x89TOK\x01"), "in.wav: not a sound file"),
    "folder without sound": (lambda: Path("in.wav").mkdir(), "in.wav holds no files to work on (.wav, .flac"),
    "missing": (lambda: None, "there is no file or folder in.wav"),
}


@pytest.mark.parametrize("name", NOT_SOUND)
def test_what_is_no_sound_is_refused_and_nothing_is_written(codec, name):
    make, words = NOT_SOUND[name]
    make()
    before = folder()
    refused(codec("encode", "in.wav", "out.tok"), words)
    assert folder() == before


def test_outputs_that_cannot_be(codec):
    Path("old.tok").write_bytes(b"precious")
    Path("file").touch()
    wav(Path("in.wav"), np.zeros(800))
    before = folder()
    for target, words in [
        ("old.tok", "old.tok exists: --force replaces it"),
        ("in.wav", "in.wav is the input"),
        ("none/a.tok", "there is no folder none"),
        ("file/a.tok", "there is no folder file"),
        ("/proc/a.tok", "/proc/a.tok cannot be written"),
        ("/dev/full", "/dev/full cannot be written: No space left on device"),
    ]:
        refused(codec("encode", "in.wav", target), words)
    refused(codec("encode", "in.wav", "in.wav", "--force"), "in.wav is the input")
    assert folder() == before
    assert Path("old.tok").read_bytes() == b"precious"
    assert codec("encode", "in.wav", "old.tok", "--force").exit_code == 0
    for target, words in [
        ("out.xyz", "cannot write 'xyz' files; choose one of flac, ogg, wav"),
        ("/dev/full", "/dev/full: cannot be written (No space left on device)"),
        ("/proc/a.wav", "cannot be written"),
    ]:
        refused(codec("decode", "old.tok", target), words)
    refused(codec("encode", ".", "file"), "must be a folder too")
    assert folder() == before


def test_damaged_tokens_are_refused(codec, tmp_path):
    wav(Path("in.wav"), 0.1 * np.random.default_rng(0).standard_normal(4000))
    assert codec("encode", "in.wav", "a.tok").exit_code == 0
    good = Path("a.tok").read_bytes()
    assert len(good) < 200
    before = folder()
    generator = np.random.default_rng(1)
    # every place is tried in the tests of the format; here, that the command line passes it on
    for at in 4 + generator.choice(len(good) - 4, 12, replace=False):
        Path("a.tok").write_bytes(good[:at])
        refused(codec("decode", "a.tok", "out.wav"), "")
        Path("a.tok").write_bytes(good[:at] + bytes([good[at] ^ 1 << generator.integers(8)]) + good[at + 1 :])
        refused(codec("decode", "a.tok", "out.wav"), "")
        refused(codec("info", "a.tok"), "")
    Path("a.tok").write_bytes(good[:4] + b"\x63" + good[5:])
    refused(codec("decode", "a.tok", "out.wav"), "version 99")
    assert folder() == before


def test_what_is_left_of_damaged_tokens(codec):
    assert codec("encode", SPEECH, "a.tok").exit_code == 0
    good = Path("a.tok").read_bytes()
    Path("a.tok").write_bytes(good[: len(good) // 2] + b"?" + good[len(good) // 2 + 1 :])
    refused(codec("decode", "a.tok", "a.wav"), "at byte")
    done = codec("decode", "a.tok", "a.wav", "--conceal")
    assert done.exit_code == 0
    assert re.fullmatch(r"a\.tok: \d+ to \d+ ms are lost\n", done.stderr)
    assert soundfile.info("a.wav").frames == soundfile.info(SPEECH).frames
    mended = codec("repair", "a.tok", "b.tok")
    assert mended.exit_code == 0
    assert mended.stderr == done.stderr
    assert re.fullmatch(r"b\.tok: \d+ frames kept, \d+ lost\n", mended.stdout)
    refused(codec("decode", "b.tok", "b.wav"), "--conceal decodes the rest")
    assert codec("decode", "b.tok", "b.wav", "--conceal").exit_code == 0
    assert Path("b.wav").read_bytes() == Path("a.wav").read_bytes()
    refused(codec("repair", "a.wav", "c.tok"), "not a .tok file")
    assert folder() == ["a.tok", "a.wav", "b.tok", "b.wav"]


def test_a_part_of_a_file(codec):
    codec("encode", SPEECH, "a.tok")
    done = codec("decode", "a.tok", "a.wav", "--start", 2, "--duration", 1.5)
    assert done.stdout == "a.wav: 1.50 s, 16000 Hz\n"
    assert soundfile.info("a.wav").frames == 24000
    refused(codec("decode", "a.tok", "b.wav", "--start", 20), "ends after 9.913 s")


def test_tokens_of_another_model_are_refused(codec, tiny_config, tmp_path):
    other = make_model(tmp_path / "other.safetensors", tiny_config, seed=1)
    assert codec("encode", SPEECH, "a.tok").exit_code == 0
    refused(codec("decode", "a.tok", "a.wav", model=other), "choose it with --model")
    assert not Path("a.wav").exists()


def test_weights_that_do_not_fit_are_refused(codec, tiny_model):
    with safe_open(tiny_model, framework="pt") as file:
        tensors, text = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(
        {name: value for name, value in tensors.items() if "norm" not in name}, "missing.safetensors", text
    )
    save_file(tensors | {"extra": torch.ones(1)}, "extra.safetensors", text)
    save_file(tensors, "newer.safetensors", text | {"format_version": "2"})
    Path("pickle.safetensors").write_bytes(pickle.dumps({"model": 1}))
    torch.save({"state_dict": tensors}, "last.ckpt")
    for model, words in [
        ("missing.safetensors", "damaged"),
        ("extra.safetensors", "damaged"),
        ("newer.safetensors", "format version 2"),
        ("pickle.safetensors", "is a pickle, which can run code"),
        ("last.ckpt", "is a pickle, which can run code"),
        ("nobody", "there is no model 'nobody'"),
        (".", "is a folder"),
        (SPEECH, "not a whole safetensors file"),
    ]:
        refused(codec("encode", SPEECH, "a.tok", model=model), words)
        refused(codec("decode", __file__, "a.wav", model=model), words)
    assert not {"a.tok", "a.wav"} & set(folder())


def test_info_of_tokens_is_computed(codec):
    codec("encode", DATA / "guitar_48k_stereo.flac", "a.tok", "-n", 2)
    found = json.loads(codec("info", "a.tok", "--json").stdout)
    source, size = soundfile.info(DATA / "guitar_48k_stereo.flac"), os.path.getsize("a.tok")
    assert found["samples"] == source.frames
    assert found["seconds"] == pytest.approx(source.duration)
    assert (found["sample_rate"], found["channels"], found["model_sample_rate"]) == (48000, 2, 16000)
    assert (found["channel_policy"], found["resampler"]) == ("mix", "soxr VHQ")
    assert (found["frames_per_second"], found["tokens_per_second"], found["codebook_sizes"]) == (
        50,
        100,
        "2 x 64",
    )
    assert found["frames"] == int(np.ceil(source.duration * 50))
    assert found["kbps"] == pytest.approx(8 * size / 1000 / source.duration)
    assert found["kbps_of_tokens"] == 0.6
    assert "sample rate        48000" in codec("info", "a.tok").stdout


def test_info_of_a_model_is_computed(codec, tiny_model):
    found = json.loads(codec("info", tiny_model, "--json").stdout)
    with safe_open(tiny_model, framework="pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert found["parameters"] == sum(value.numel() for value in tensors if value.is_floating_point())
    assert found["parameters"] == sum(found[f"parameters_{p}"] for p in ("encoder", "quantizer", "decoder"))
    assert found["bit_rates"][3] == {"codebooks": 4, "kbps": 1.2, "tokens_per_second": 200}
    assert found["causal"] is True
    assert (found["look_ahead_ms"], found["latency_ms"]) == (30, 50)
    assert found["receptive_field_ms"] == found["look_back_ms"] + 20 + 30
    assert (found["licence"], found["data"], found["recipe"]) == ("CC0-1.0", "noise", "tiny")
    assert "codebook sizes        4 x 64\n" in codec("info", tiny_model).stdout


def test_the_reach_of_a_model_is_what_a_probe_finds(tiny_config):
    """Gradients reach exactly as far as the layers say."""
    codec = build(tiny_config).eval()
    with torch.no_grad():
        for value in codec.parameters():
            value.copy_(0.3 * torch.randn_like(value))
    for part, width, unit in [(codec.encoder, 1, 320), (codec.decoder, 16, 1)]:
        field, frame = part.receptive_field(), 30
        x = torch.randn(1, width, 60 * unit, requires_grad=True)
        start, size = (frame, 1) if part is codec.encoder else (frame * 320 + codec.delay, 320)
        part(x)[..., start : start + size].square().sum().backward()
        touched = x.grad.abs().sum((0, 1)).nonzero()[:, 0]
        # the first value of a Hann window is zero
        assert touched[0] - (frame * unit - field.back) == (1 if part is codec.encoder else 0)
        assert touched[-1] == (frame + 1) * unit - 1 + field.ahead


def test_a_run_becomes_a_model(codec, tiny_config):
    weights = {f"codec.{name}": value for name, value in build(tiny_config).state_dict().items()}
    torch.save({"state_dict": weights, "codec": {"config": tiny_config, "steps": 5}}, "last.ckpt")
    Path("scores.json").write_text('{"pesq_wb": 1.5}')
    Path("broken.json").write_text("{")
    options = ["--licence", "CC0-1.0", "--scores", "scores.json"]
    done = codec("export", ".", "m.safetensors", *options)
    assert done.exit_code == 0, done.output
    found = json.loads(codec("info", "m.safetensors", "--json").stdout)
    assert (found["steps"], found["licence"], found["scores"]) == (5, "CC0-1.0", {"pesq_wb": 1.5})
    assert codec("encode", SPEECH, "a.tok", model="m.safetensors").exit_code == 0
    refused(codec("export", ".", "m.safetensors"), "--force replaces it")
    refused(codec("export", ".", "n.safetensors", "--scores", "broken.json"), "broken.json is no JSON file")
    refused(codec("export", SPEECH, "n.safetensors"), "no checkpoint of a training run")
    refused(codec("import-weights", "last.ckpt", "n.safetensors", "--from", "x"), "no converter from 'x'")
    assert folder() == ["a.tok", "broken.json", "last.ckpt", "m.safetensors", "scores.json"]


def test_training_takes_its_own_arguments(codec):
    told = codec("train", "--help")
    assert told.exit_code == 0
    assert "hificodec" in told.stdout
    assert codec("train", "+recipe=nobody").exit_code == 2


def test_info_of_sound_and_of_the_machine(codec):
    assert json.loads(codec("info", SPEECH, "--json").stdout)["frames"] == soundfile.info(SPEECH).frames
    assert torch.__version__ in codec("info", "--system").stdout
    refused(codec("info", __file__), "neither a token file nor a model nor a sound file")
    refused(codec("info", "nobody"), "there is no model 'nobody'")


def test_a_pipeline_of_processes(tiny_model, tmp_path):
    """Encode in one process, decode in another; the parts of the package that encoding does not need stay out."""
    script = (
        "import sys; from codec.cli import app; app(standalone_mode=False)\n"
        "heavy = {'lightning', 'hydra', 'matplotlib', 'torchaudio', 'torch._dynamo', 'gradio'} & set(sys.modules)\n"
        "print(*heavy, file=sys.stderr); sys.exit(3 if heavy else 0)"
    )
    model = ["--model", str(tiny_model)]
    with SPEECH.open("rb") as sound, (tmp_path / "out.wav").open("wb") as out:
        encode = subprocess.Popen(
            [sys.executable, "-c", script, "encode", "-", "-", *model], stdin=sound, stdout=subprocess.PIPE
        )
        decode = subprocess.Popen([*SUBPROCESS, "decode", "-", "-", *model], stdin=encode.stdout, stdout=out)
        assert encode.stdout is not None
        encode.stdout.close()
        assert (encode.wait(), decode.wait()) == (0, 0)
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(SPEECH).frames
