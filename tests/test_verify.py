"""`codec verify` finds that good models are exact, and that bad ones are not."""

from __future__ import annotations

import json
import math

import pytest
import soundfile
import torch
from conftest import SPEECH
from typer.testing import CliRunner

from codec import files
from codec.build import build
from codec.cli import app
from codec.models.parts import Encoder
from codec.verify import Check, verify


@pytest.fixture
def sound():
    return torch.from_numpy(soundfile.read(SPEECH, dtype="float32", frames=16000)[0])[None, None]


def test_a_causal_model_is_exact(tiny_model, sound):
    checks = verify(files.load(tiny_model), sound, trials=3)
    assert len(checks) >= 5
    for check in checks[:5]:
        assert check.exact, check
        assert check.trials >= 1
        assert check.codes > 0


def test_a_model_that_depends_on_its_company_is_found_out(tiny_config, sound):
    class Leveller(Encoder):
        """Scales by what it is given at once: by the batch, the chunk and the padding."""

        def __init__(self, encoder: Encoder) -> None:
            super().__init__()
            self.encoder, self.hop, self.dim, self.causal = encoder, encoder.hop, encoder.dim, True

        def forward(self, audio, state=None):
            return self.encoder(audio / audio.std().clamp(min=1e-3) if audio.numel() else audio, state)

        def span(self, first, last):
            return self.encoder.span(first, last)

    codec = build(tiny_config)
    codec.train()(0.1 * torch.randn(2, 1, 16000))
    codec.eval().encoder = Leveller(codec.encoder)
    checks = {check.name: check for check in verify(codec, sound, trials=3)}
    assert checks["the same call again"].exact
    for name in ("streamed in random chunks", "inside a batch of other sounds", "with silence behind it"):
        assert checks[name].flipped > 0, name


def test_a_difference_counts_from_rounding_on():
    check = Check("x")
    check.compare(audio=(torch.zeros(3), torch.full((3,), 9e-6)))
    assert check.exact
    check.compare(audio=(torch.zeros(3), torch.full((3,), 2e-5)))
    assert not check.exact
    assert check.worst == pytest.approx(2e-5)
    check.compare(audio=(torch.zeros(2), torch.zeros(3)))
    assert math.isinf(check.worst)
    check = Check("y")
    check.compare((torch.zeros(1, 4, 2), torch.zeros(1, 4, 3)))
    assert (check.flipped, check.exact) == (12, False)


def test_the_verb(tiny_model):
    settings = ["verify", str(tiny_model), "--trials", "2", "--seconds", "0.5"]
    done = CliRunner().invoke(app, [*settings, "--data", str(SPEECH)])
    assert done.exit_code == 0, done.output
    assert "NOT" not in done.stdout
    rows = json.loads(CliRunner().invoke(app, [*settings, "--json"]).stdout)
    assert all(row["exact"] and row["flipped"] == 0 for row in rows[:5])
