"""Systems, sanity checks, channels, statistics, and an evaluation from end to end."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from codec import audio
from codec.build import build
from codec.checkpoint import save
from codec.cli import app
from codec.distort import TokenChannel
from codec.errors import CodecError, ConfigError
from codec.evaluate import Options, evaluate, parse
from codec.evaluate.baselines import Original
from codec.evaluate.checks import Calibration, calibrate
from codec.evaluate.damage import curves, describe
from codec.evaluate.ogg import packet_bytes
from codec.evaluate.score import Row
from codec.evaluate.summary import UNCODED, exclusions, failures
from codec.metrics import METRICS
from codec.metrics.statistics import estimate, paired

DATA = Path(__file__).parent / "data"
RATE = 16000


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.read(DATA / "speech.flac", frames=2 * RATE)[0][0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained codec: small and fast."""
    shape = {"dim": 24, "rates": [8, 5, 4, 2], "kernels": [16, 11, 8, 4]}
    config = {
        "model": {
            "sample_rate": RATE,
            "channels": 1,
            "encoder": {"name": "hificodec_encoder", "width": 4, **shape},
            "decoder": {"name": "hificodec_decoder", "width": 32, **shape},
        },
        "quantizer": {"name": "fsq", "levels": [5, 3], "num_codebooks": 2},
    }
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(build(config), path, config)
    return str(path)


# ---- sanity checks ----


def test_a_clean_wrapper_passes(speech: np.ndarray) -> None:
    found = calibrate(Original(), [(speech, speech)], RATE)
    assert found == Calibration(0, pytest.approx(0, abs=1e-6), 0.0, 0, ())


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda x: 0.5 * x, "level"),
        (lambda x: 1.12 * x, "level"),
        (lambda x: np.pad(x, (160, 0))[:-160], "delay"),
        (lambda x: audio.to_model(x[None], RATE, 24000, 1)[0][0, 0], "length"),
        (lambda x: x[:-1], "length"),
        (lambda x: 0 * x, "silent"),
    ],
)
def test_a_broken_wrapper_is_refused(speech: np.ndarray, spoil: object, word: str) -> None:
    found = calibrate(Original(), [(spoil(speech).astype(np.float32), speech)], RATE)  # type: ignore[operator]
    assert any(reason.startswith(word) or word in reason for reason in found.refused)


def test_coding_noise_and_lost_energy_are_no_level_fault(speech: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    lossy = speech + 0.5 * speech.std() * rng.standard_normal(speech.size).astype(np.float32)
    expected = lossy * (speech @ lossy) / (lossy @ lossy)  # the best prediction has less energy
    assert calibrate(Original(), [(expected, speech)], RATE).refused == ()
    assert calibrate(Original(), [(0.5 * expected, speech)], RATE).refused


def test_a_baselines_constant_lag_is_taken_away(speech: np.ndarray) -> None:
    late = Original()
    late.delayed, late.frame = True, 0.1
    found = calibrate(late, [(np.pad(speech, (400, 0)), speech)], RATE)
    assert (found.delay, found.refused) == (400, ())
    assert np.array_equal(found.apply(np.pad(speech, (400, 0)), speech.size), speech)


# ---- systems ----


def test_mulaw_and_resampling(speech: np.ndarray) -> None:
    noise = speech - parse("mulaw").code(speech, RATE).audio
    assert 10 * np.log10((speech**2).sum() / (noise**2).sum()) > 30
    half = parse("resample:8000").code(speech, RATE)
    assert (half.audio.size, half.payload_bytes) == (speech.size, speech.size)
    assert parse("mulaw:4").code(speech, RATE).payload_bytes == speech.size // 2


@pytest.mark.parametrize("spec", ["opus:12", "codec2:3200", "mp3:32", "aac:32"])
def test_baselines_give_the_clip_back_at_about_their_rate(speech: np.ndarray, spec: str) -> None:
    system = parse(spec)
    if system.missing():
        pytest.skip(str(system.missing()))
    coded = system.code(speech, RATE)
    found = calibrate(system, [(coded.audio, speech)], RATE)
    assert found.refused == ()
    assert abs(found.apply(coded.audio, speech.size).size - speech.size) == 0
    nominal = int(spec.split(":")[1]) / (1000 if "codec2" in spec else 1)
    assert 8e-3 * coded.payload_bytes / 2 == pytest.approx(nominal, rel=0.25)
    assert coded.payload_bytes < coded.container_bytes


def test_wrong_names_are_refused(model: str) -> None:
    for spec in ("opus:3", "opus:loud", "codec2:9000", "mulaw:1", "encodec:7", f"{model}@3", "no-such-model"):
        with pytest.raises(CodecError):
            parse(spec)


def test_a_model_is_measured_by_its_real_bytes(speech: np.ndarray, model: str) -> None:
    coded = parse(model).code(speech, RATE)
    assert coded.codes is not None
    assert coded.codes.shape == (2, 100)
    assert coded.payload_bytes == 100 * 2 * 4 // 8
    assert coded.payload_bytes < coded.container_bytes < coded.payload_bytes + 120
    assert coded.audio.size == speech.size
    assert 0 <= coded.stability <= 1  # type: ignore[operator]


def test_ogg_packets() -> None:
    page = b"OggS" + bytes(22) + bytes([3, 255, 10, 7]) + bytes(272)
    assert packet_bytes(page) == [265, 7]
    with pytest.raises(CodecError):
        packet_bytes(page[:-1])


# ---- channels ----


@pytest.mark.parametrize("text", ["bsc:0.05", "burst:0.05,8", "gilbert:0.05,20"])
def test_channels_flip_the_share_that_they_say(text: str) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1024, (4, 6000))
    arrived = TokenChannel.parse(text).damage(codes, [(1024,)] * 4, 50, "seed")
    flipped = np.array([value.bit_count() for value in (codes ^ arrived).ravel().tolist()]).sum()
    assert flipped / (codes.size * 10) == pytest.approx(0.05, rel=0.15)
    again = TokenChannel.parse(text).damage(codes, [(1024,)] * 4, 50, "seed")
    assert np.array_equal(arrived, again)


def test_digits_apart_hurt_one_digit_and_erasure_repeats() -> None:
    levels = [(5, 3), (5, 3)]
    codes = np.random.default_rng(0).integers(0, 15, (2, 4000))
    assert np.array_equal(TokenChannel.parse("bsc:0,digits").damage(codes, levels, 50, ""), codes)
    arrived = TokenChannel.parse("bsc:0.01,digits").damage(codes, levels, 50, "")
    assert 0.01 < (arrived != codes).mean() < 0.06
    assert arrived.max() < 15
    lost = TokenChannel.parse("erasure:0.3").damage(codes, levels, 50, "")
    changed = np.flatnonzero((lost != codes).any(axis=0))
    assert 0.2 < changed.size / 4000 < 0.4
    assert all(np.array_equal(lost[:, t], lost[:, t - 1]) for t in changed)


def test_digits_apart_take_their_room_and_need_digits(
    tmp_path: Path, model: str, speech: np.ndarray, tiny_model: Path
) -> None:
    coded = [parse(model, channel).code(speech, RATE) for channel in ("bsc:0.01", "bsc:0.01,digits")]
    # 5 and 3 levels: 4 bits as one code of 15, 3 and 2 bits apart; two codebooks, 100 frames
    assert [c.payload_bytes for c in coded] == [100, 125]
    assert coded[1].container_bytes - coded[0].container_bytes == 25
    audio.write(tmp_path / "a.wav", speech[None], RATE)
    result = evaluate(
        [model, str(tiny_model)],
        tmp_path / "a.wav",
        tmp_path / "out",
        Options(metrics=("si_sdr",), channels=("bsc:0.01,digits",), jobs=1, checks=False),
    )
    assert list(result.table) == [model, str(tiny_model), f"{model}+bsc:0.01,digits"]
    assert result.refused == {
        f"{tiny_model}+bsc:0.01,digits": ["the quantizer RVQ has no digits to pack apart"]
    }


def test_curves_of_damage_begin_without_any() -> None:
    def entry(value: float | None) -> dict[str, dict[str, object]]:
        return {"stoi": {"mean": value, "interval": [value, value]}}

    table = {"m": entry(0.9), "m+bsc:0.1": entry(0.4), "m+bsc:0.01": entry(0.7), "m+bsc:0.2": entry(None)}
    damaged = {f"m+bsc:{p:g}": describe("m", TokenChannel.parse(f"bsc:{p:g}")) for p in (0.1, 0.01, 0.2)}
    found = curves(table, damaged, "stoi")
    assert found == {"bsc": {"m": [(0.0, "m"), (0.01, "m+bsc:0.01"), (0.1, "m+bsc:0.1")]}}
    assert describe("m", TokenChannel.parse("gilbert:0.1,20")).channel == "gilbert,20"
    assert describe("m", TokenChannel.parse("bsc:0.1,digits")).line == "m, digits apart"


@pytest.mark.parametrize(
    "text", ["", "bsc", "bsc:2", "burst:0.1", "gilbert:0.9,3", "erasure:0.1,digits", "x:1"]
)
def test_channels_that_do_not_exist(text: str) -> None:
    with pytest.raises(ConfigError, match="there is no channel"):
        TokenChannel.parse(text)


# ---- statistics ----


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = [
        low.low <= 1.0 <= low.high
        for low in (estimate(list(1 + rng.standard_normal(30))) for _ in range(200))
    ]
    assert 0.88 <= np.mean(held) <= 0.99
    assert estimate([1.0, 3.0], [3.0, 1.0]).mean == 1.5


def test_paired_test() -> None:
    assert paired([2.0] * 8, [1.0] * 8).p == pytest.approx(2 / 2**8)
    assert paired([1.0] * 8, [1.0] * 8).p == 1.0
    rng = np.random.default_rng(0)
    a = rng.standard_normal(40)
    assert paired(list(a + 1), list(a)).p < 1e-3
    assert paired(list(rng.standard_normal(40)), list(a)).p > 0.01


# ---- from end to end ----


def test_evaluation_with_bad_clips_resumes(tmp_path: Path, model: str, speech: np.ndarray) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    audio.write(data / "a.wav", speech[None], RATE)
    audio.write(data / "stereo.wav", np.stack([speech, speech])[:, :20000], 24000)
    audio.write(data / "silence.wav", np.zeros((1, RATE), np.float32), RATE)
    (data / "broken.wav").write_bytes(b"RIFF nothing")
    names = ("si_sdr", "mel_distance")
    systems = ["original", "mulaw", model]
    seen: list[int] = []
    options = Options(metrics=names, channels=("bsc:0.1",), jobs=1, checks=False)
    result = evaluate(systems, data, out, options, progress=lambda done, total, _: seen.append(done))
    assert list(result.table) == ["original", "mulaw", model, f"{model}+bsc:0.1"]
    about = {"base": model, "channel": "bsc", "share": 0.1, "line": model}
    assert result.details["damaged"] == {f"{model}+bsc:0.1": about}
    assert list(result.details["codebooks"]) == [model]  # the channel's tokens are the same
    assert any("broken.wav" in name for name in result.skipped)
    summary = json.loads((out / "summary.json").read_text())
    entry = summary["original"]["si_sdr"]
    assert entry["count"] == 2
    assert entry["excluded"] == {"the original is silent": 1}
    assert entry["interval"][0] <= entry["mean"] <= entry["interval"][1]
    assert summary["original"]["si_sdr"]["mean"] > summary["mulaw"]["si_sdr"]["mean"]
    assert summary["mulaw"]["kbps_payload"]["mean"] == pytest.approx(128)
    # an untrained model, told once
    assert [line.split()[0] for line in result.warnings if "fails a sanity check" in line] == [model]
    assert len((out / "clips.csv").read_text().splitlines()) == 1 + 4 * 3
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=\"https?:", page)
    assert page.count("data:audio/flac") >= 3
    assert (out / "plots" / "rate_si_sdr.png").exists()
    assert (out / "plots" / "damage_bsc_si_sdr.png").exists()

    lines = (out / "clips.jsonl").read_text().splitlines()
    (out / "clips.jsonl").write_text("\n".join(lines[:-2]) + "\n" + lines[-1][:40])  # stopped while writing
    seen.clear()
    again = evaluate(systems, data, out, options, progress=lambda done, total, _: seen.append(done))
    assert seen == [10, 11, 12]
    assert again.table["original"]["si_sdr"] == result.table["original"]["si_sdr"]


def test_a_package_that_fails_takes_its_own_metric_with_it(
    tmp_path: Path, speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise ZeroDivisionError("of theirs")

    monkeypatch.setattr(METRICS["si_sdr"], "__call__", broken)
    audio.write(tmp_path / "a.wav", speech[None], RATE)
    audio.write(tmp_path / "short.wav", speech[None, 5000:5100], RATE)
    names = ("si_sdr", "stoi", "pesq_wb", "f0_error", "mel_distance", "snr")
    result = evaluate(["original"], tmp_path, tmp_path / "out", Options(metrics=names, jobs=1))
    reasons = {name: result.table["original"][name]["excluded"] for name in names}
    assert reasons["si_sdr"] == {"si_sdr failed: ZeroDivisionError: of theirs": 2}
    assert reasons["stoi"] == {"STOI needs 0.4 s of sound": 1}
    assert reasons["pesq_wb"] == {"the clip is too short for PESQ": 1}
    assert reasons["snr"] == {}
    assert "1 clip without stoi for all systems: STOI needs 0.4 s of sound" in exclusions(result.table)


def test_what_is_left_out_is_told_once_for_all_systems() -> None:
    rows = [Row("", system, "a.wav", error="not finite") for system in ("x", "y")]
    rows += [Row("", "x", "b.wav", error="not finite"), Row("", "y", "b.wav")]
    assert failures(rows) == [
        "a.wav is left out for all systems: not finite",
        "b.wav is left out for x: not finite",
    ]
    silent, uncoded = {"the original is silent": 2}, {UNCODED: 1}
    table = {"x": {"stoi": {"excluded": silent | uncoded}}, "y": {"snr": {"excluded": silent}, "kbps": {}}}
    assert exclusions(table) == ["2 clips without stoi, snr for all systems: the original is silent"]


@pytest.mark.slow
def test_the_report_opens_in_a_browser(tmp_path: Path, model: str, speech: np.ndarray) -> None:
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    audio.write(tmp_path / "a.wav", speech[None], RATE)
    audio.write(tmp_path / "b.wav", 0.5 * speech[None, ::-1], RATE)
    evaluate(
        [model, "mulaw:4", "original"],
        tmp_path,
        tmp_path / "out",
        Options(
            metrics=("si_sdr", "mel_distance"),
            channels=("bsc:0.01", "bsc:0.1", "bsc:0.1,digits"),
            jobs=1,
            checks=False,
        ),
    )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser.get((tmp_path / "out" / "report.html").as_uri())
        assert browser.get_log("browser") == []
        titles = [title.text for title in browser.find_elements("tag name", "h2")]
        assert titles == [
            "Quality against rate",
            "Damage on the way",
            "All figures",
            "Two systems, clip by clip",
            "Listen and look",
            "Codebooks",
            "Sanity checks and settings",
        ]
        damage = browser.find_element("css selector", ".charts svg")
        lines = damage.find_elements("tag name", "polyline")
        assert [len(line.get_attribute("points").split()) for line in lines] == [3, 2]
        browser.find_element("css selector", "th[data-k=si_sdr]").click()
        first = browser.find_element("css selector", "tbody tr td").text
        assert first == "original"
        assert browser.get_log("browser") == []
    finally:
        browser.quit()


def test_command_line(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no baseline's program is installed
    clip = str(DATA / "vctk_p276_48k.flac")
    command = ["eval", "original", "opus:12", "--data", clip, "--out", str(tmp_path / "o"), "--memory"]
    done = CliRunner().invoke(app, [*command, "--metrics", "si_sdr", "--seconds", "1", "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "opus:12 is not scored: the program opusenc and opusdec is not installed" in done.output
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())
    assert list(summary) == ["original"]
    assert 50 < summary["original"]["peak_mb"]["mean"] < 5000
    empty = tmp_path / "empty"
    empty.mkdir()
    done = CliRunner().invoke(app, ["eval", "original", "--data", str(empty), "--out", str(tmp_path / "p")])
    assert done.exit_code == 1
    assert "holds no sound file" in done.output


def test_bench_speed(model: str) -> None:
    command = ["bench", "speed", str(DATA / "speech.flac"), "--model", model, "--seconds", "1"]
    done = CliRunner().invoke(app, [*command, "--threads", "1", "--batches", "1,2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["machine"]["cores"] >= 1
    settings = {(figure["what"], figure["setting"]) for figure in found["figures"]}
    assert ("encode", "1 threads, batch 2") in settings
    assert not any("streaming" in what for what, _ in settings)  # this model is not causal
    assert all(figure["value"] > 0 for figure in found["figures"])
    assert CliRunner().invoke(app, [*command, "--threads", "0"]).exit_code == 2
