"""Quantizers compared on a few vectors."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from codec.bench import quantizers as bench
from codec.bench import quantizers_report as report
from codec.bench.vectors import bound_db, gaussian, latents
from codec.build import PARTS, make
from codec.cli import app
from codec.data import sources
from codec.errors import ConfigError


def test_bound_of_white_and_of_coloured_vectors() -> None:
    assert bound_db(torch.eye(8), 16.0) == pytest.approx(20 * math.log10(2) * 2)
    # powers 16 and 1: with 2 bits the water stands at 1, with 4 at a quarter, with 1 at 4, above the second channel
    assert bound_db(torch.diag(torch.tensor([16.0, 1.0])), 2.0) == pytest.approx(10 * math.log10(17 / 2))
    assert bound_db(torch.diag(torch.tensor([16.0, 1.0])), 4.0) == pytest.approx(10 * math.log10(17 / 0.5))
    assert bound_db(torch.diag(torch.tensor([16.0, 1.0])), 1.0) == pytest.approx(10 * math.log10(17 / 5))


def test_examined_written_and_drawn(tmp_path: Path) -> None:
    data = {"gaussian": gaussian(1500), "latents": gaussian(1500) * torch.linspace(0.1, 2, 16)}
    names = ["vq", "fsq", "turboquant"]
    said: list[str] = []
    results = bench.examine(data, names, seconds=0.3, progress=said.append)
    assert said == [f"{n} on {k}" for k in data for n in names]
    for r in results:
        assert 0 < r.sqnr_db < r.bound_db + 0.5
        assert r.bound_db >= r.line_db - 0.1
        assert 0 < r.usage <= 1
        assert 0 < r.perplexity <= 1
        assert r.ns_per_vector > 0
    vq = results[0]
    assert vq.bits == 12
    assert vq.parameters == 4096 * 16
    assert vq.steps > 0
    assert 0.2 < vq.steps * vq.ms_per_step / 1000 < 1
    report.write_csv(results, tmp_path / "q.csv")
    with (tmp_path / "q.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["quantizer"] for row in rows] == names * 2
    assert float(rows[0]["sqnr_db"]) == pytest.approx(vq.sqnr_db, abs=1e-4)
    report.plot(results, tmp_path / "q.png")
    assert (tmp_path / "q.png").read_bytes()[1:4] == b"PNG"
    shown = report.tables(results)
    assert [table.row_count for table in shown] == [3, 3]


def test_the_verb_writes_both_files(tmp_path: Path) -> None:
    data = Path(__file__).parent / "data" / "speech.flac"
    command = ["bench", "quantizers", "--out", str(tmp_path / "new"), "--seconds", "0.1"]
    done = CliRunner().invoke(app, [*command, "--data", str(data), "--only", "turboquant, grvq"])
    assert done.exit_code == 0, done.output
    for word in ("turboquant", "grvq hificodec", "gaussian", "latents", "perplexity"):
        assert word in done.output
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["quantizers.csv", "quantizers.png"]
    with (tmp_path / "new" / "quantizers.csv").open() as file:
        rows = [(row["quantizer"], row["data"]) for row in csv.DictReader(file)]
    names = ["grvq", "grvq hificodec", "turboquant"]
    assert rows == [(name, kind) for kind in ("gaussian", "latents") for name in names]

    done = CliRunner().invoke(app, [*command, "--only", "grvq,nope"])
    assert done.exit_code == 1
    assert "no quantizer 'nope' to examine; there are vq, rvq" in done.stderr
    done = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "gone")])
    assert done.exit_code == 1
    assert "gone: no such file" in done.stderr


def test_every_registered_quantizer_is_an_entry() -> None:
    assert {entry["name"] for entry in bench.ENTRIES.values()} == set(PARTS["quantizer"])
    assert bench.choose(None) == list(bench.ENTRIES)
    for dim in (16, 64):
        made = {name: make("quantizer", bench.settings(name, dim), dim=dim) for name in bench.ENTRIES}
        bits = {name: math.log2(math.prod(quantizer.codebook_sizes)) for name, quantizer in made.items()}
        assert bits.pop("vq") == 12
        assert bits.pop("turboquant") == (42 if dim == 16 else 74)
        assert all(39 < value <= 44 for value in bits.values()), bits


def test_latents_of_real_speech() -> None:
    from codec.checkpoint import load

    model, folder = load("default"), Path(__file__).parent / "data"
    recordings = sources.find(folder / "speech.flac").train
    found = latents(model, recordings)
    assert found.shape == (recordings[0].length(16_000) // model.hop, model.quantizer.dim)
    assert torch.isfinite(found).all()
    assert not found.requires_grad
    assert torch.equal(latents(model, recordings, limit=40), found[:40])
    # several recordings come whole, one after the other
    pair = recordings + sources.find(folder / "ljspeech_22k.flac").train
    both = latents(model, pair)
    assert len(both) == sum(r.length(16_000) // model.hop for r in pair)
    assert any(torch.equal(part, found) for part in (both[: len(found)], both[-len(found) :]))
    with pytest.raises(ConfigError, match="no sound"):
        latents(model, [])


def test_the_search_is_compared_with_the_greedy_one() -> None:
    command = [
        "bench",
        "search",
        str(Path(__file__).parent / "data"),
        "--codebooks",
        "4,12",
        "--beams",
        "1,3",
    ]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    rows = {(row["num_codebooks"], row["beam"], row["refine"]): row for row in json.loads(done.stdout)}
    assert list(rows) == [(k, b, r) for k in (4, 12) for r in (0, 1, 2) for b in (1, 3)]
    for codebooks in (4, 12):
        assert (
            rows[codebooks, 1, 0]["error"]
            == rows[codebooks, 1, 0]["low"]
            == rows[codebooks, 1, 0]["high"]
            == 1
        )
        assert rows[codebooks, 3, 0]["error"] < 0.97
        for beam in (1, 3):
            errors = [rows[codebooks, beam, refine]["error"] for refine in (0, 1, 2)]
            assert errors == sorted(errors, reverse=True)
    assert all(row["low"] <= row["error"] <= row["high"] for row in rows.values())
