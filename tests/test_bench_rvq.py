"""The benchmark of the codebook search: its contenders agree, its referee sees mistakes, its command prints them."""

import json

import pytest
import torch
from typer.testing import CliRunner

from codec.bench import rvq
from codec.cli import app

SMALL = rvq.Shape(60, 8, 64, 3)


@pytest.mark.parametrize("name", sorted(set(rvq.CONTENDERS) - {"torch.compile", "codec.ops, CUDA graph"}))
def test_contenders_search_the_same_books(name: str) -> None:
    x, codebooks = rvq.problem(SMALL)
    try:
        codes = rvq.CONTENDERS[name](x, codebooks, SMALL)()
    except rvq.Missing as reason:
        pytest.skip(str(reason))
    assert torch.equal(codes, rvq.usual(x, codebooks))


def test_referee_counts_wrong_choices_once() -> None:
    x, codebooks = rvq.problem(SMALL)
    codes = rvq.usual(x, codebooks)
    assert rvq.mistakes(x, codebooks, codes) == 0
    first = codes[7, 0].item()
    codes[7, 0] = (first + 1) % 64
    codes[7, 1:] = rvq.usual(x[7:8] - codebooks[0, codes[7, 0]], codebooks[1:])[0]
    assert rvq.mistakes(x, codebooks, codes) == 1  # the later choices are right for what they were given
    beam = rvq.CONTENDERS["codec.ops"](x, codebooks, rvq.Shape(60, 8, 64, 3, 4))()
    assert rvq.mistakes(x, codebooks, beam, 4) == 0
    beam[3, 1] += 1
    assert rvq.mistakes(x, codebooks, beam, 4) == 1


def test_books_leave_every_stage_the_same_choice() -> None:
    x, codebooks = rvq.problem(rvq.Shape(4000, 8, 256, 4))
    residual = x
    left = []
    for codebook, chosen in zip(codebooks, rvq.usual(x, codebooks).t(), strict=True):
        residual = residual - codebook[chosen]
        left.append(float(residual.square().mean()))
    assert left == sorted(left, reverse=True)
    assert left[3] / left[2] == pytest.approx(left[1] / left[0], rel=0.1)


def test_command() -> None:
    done = CliRunner().invoke(
        app, ["bench", "rvq", "5x8x16x2", "5x8x16x2x2", "--device", "cpu", "--rounds", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "cpu: M=5 D=8 V=16 K=2 B=2" in done.output
    assert "encodec                    it has no beam" in done.output
    done = CliRunner().invoke(app, ["bench", "rvq", "5x8x15x2", "--device", "cpu", "--rounds", "1", "--json"])
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)}
    assert figures["faiss"]["note"] == "its codebooks have a power of two of codes"
    assert figures["codec.ops"]["wrong"] == 0
    assert figures["codec.ops"]["seconds"] > 0


@pytest.mark.parametrize(
    "arguments", [["5x8"], ["5x0x16x2"], ["5xax16x2"], ["--device", "tpu"], ["5x8x16x2x2x2"]]
)
def test_bad_arguments(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["bench", "rvq", *arguments])
    assert done.exit_code == 1
    assert len(done.output.strip().splitlines()) == 1
    with pytest.raises(SystemExit):
        rvq.main(arguments)
