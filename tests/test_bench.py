"""`codec bench stream`, `long` and `encodec`: their figures belong together, and what is raced does the same."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from typer.testing import CliRunner

from codec import system
from codec.bench import timing
from codec.bench.speed import fresh
from codec.cli import app
from codec.errors import CodecError
from tests.conftest import SPEECH


def told(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["bench", *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_stream(tiny_model) -> None:
    link = told("stream", str(SPEECH), "--model", str(tiny_model), "--seconds", "15")
    assert link["frame_ms"] == 20
    assert link["frames"] == 950  # two blocks of ten seconds without the first 50 frames
    for part in ("encode_ms", "decode_ms", "both_ms"):
        assert 0 < link[part][0] <= link[part][1]
    assert link["both_ms"][0] > max(link["encode_ms"][0], link["decode_ms"][0])
    assert link["offline"] > 1
    assert link["start_mb"] + link["growth_mb"] == pytest.approx(system.memory() / 1e6, rel=0.5)
    lines = CliRunner().invoke(app, ["bench", "stream", str(SPEECH), "--model", str(tiny_model)]).stdout
    assert "99th percentile" in lines


def test_long(tiny_model) -> None:
    encode, decode = told("long", str(SPEECH), "--model", str(tiny_model), "--hours", "0.05")["figures"]
    assert (encode["what"], decode["what"]) == ("encode", "decode")
    assert encode["hours"] == pytest.approx(0.05)
    for one in (encode, decode):
        assert min(one["speed"], one["short_speed"]) > 1


def test_encodec() -> None:
    pytest.importorskip("encodec")
    encode, decode, memory = told("encodec", "--lengths", "1", "--rounds", "1")["figures"]
    assert (encode["what"], decode["what"]) == ("encode", "decode")
    assert encode["same"] == decode["same"] == 1, "the same weights give the same codes and samples"
    assert memory["seconds"] == encode["seconds"] == decode["seconds"] == 1


def test_a_measured_process_that_fails_says_why() -> None:
    with pytest.raises(CodecError, match="ValueError: no sound"):
        fresh("raise ValueError('no sound')")
    with pytest.raises(CodecError, match="exit status -9"):
        fresh("import os; os.kill(os.getpid(), 9)")


def test_the_peak_of_a_measured_process_is_its_own() -> None:
    (empty,), (used,) = fresh(""), fresh("block = b'x' * 300_000_000")
    assert used - empty == pytest.approx(300, abs=20)


def test_contenders_take_turns_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, calls = [0.0], []

    def work(name: str, seconds: list[float]) -> None:
        calls.append(name)
        clock[0] += seconds.pop(0)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    works = {"a": partial(work, "a", [9, 1, 2]), "b": partial(work, "b", [8, 3, 8])}
    spent = timing.in_turn(works, 2)
    assert "".join(calls) == "ababab"
    assert spent == {"a": [1, 2], "b": [3, 8]}
    assert timing.ratios(spent["b"], spent["a"]) == (3, 4)
