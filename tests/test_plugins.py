"""Parts of a run from a folder outside the checkout: they train, export, encode and decode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import SPEECH

import codec
from codec.errors import ConfigError
from codec.train.app import main
from codec.train.export import export

STRANGER = '''
import json, torch
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger
from codec.losses import ReconstructionLoss
from codec.quantizers import Quantizer, QuantizerOutput

class Signs(Quantizer):
    """The sign of each of the first channels."""
    def __init__(self, dim, bits=8):
        super().__init__(dim, (2,) * bits, prefixes=(bits,))
    def _forward(self, x, num):
        codes = (x[..., :len(self.codebook_sizes)] > 0).long()
        values = x + (self._embed(codes) - x).detach()
        return QuantizerOutput(values, codes, {"commit": (x - values.detach()).square().mean()}, {}, values)
    def _search(self, x, num, beam, refine):
        return (x[:, :num] > 0).long()
    def _embed(self, codes):
        return torch.nn.functional.pad(2.0 * codes - 1, (0, self.dim - codes.shape[-1]))

class Loudness(ReconstructionLoss):
    names = ("loudness",)
    def compare(self, pair):
        return {"loudness": (pair.estimate.square().mean() - pair.target.square().mean()).abs()}

class Hum(torch.utils.data.Dataset):
    def __init__(self, length, items=60):
        self.length, self.items = length, items
    def __len__(self):
        return self.items
    def __getitem__(self, index):
        return 0.1 * torch.sin(torch.arange(2 * self.length) * (0.01 + 0.001 * index))[None]

class Count(Callback):
    def on_train_end(self, trainer, pl_module):
        open("count.json", "w").write(json.dumps(trainer.global_step))

class Table(CSVLogger):
    pass
'''
TRAIN = """--config-dir conf quantizer=signs loss=mel logger=none size=tiny train.steps=2 batch_limit=2
data.samples=6400 data.num_workers=0 checkpoint.steps=2 dir=run +loss.terms.loud.name=stranger:Loudness
+loss.weights.loud=1.0
data.dataset={name:'stranger:Hum',items:50} +callbacks.count.name=stranger:Count
+logger={name:'stranger:Table',save_dir:table}"""


def test_parts_from_elsewhere_train_export_encode_and_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stranger.py").write_text(STRANGER)
    (tmp_path / "conf" / "quantizer").mkdir(parents=True)
    (tmp_path / "conf" / "quantizer" / "signs.yaml").write_text("name: stranger:Signs\nbits: 6\n")
    assert main(TRAIN.split()) == 0
    assert json.loads((tmp_path / "count.json").read_text()) == 2
    assert list((tmp_path / "table").rglob("metrics.csv"))
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["data"]["files"] == 49
    assert "loud" in receipt["evaluation"]

    with pytest.raises(ConfigError, match="outside this package"):
        export("run", "model.safetensors")
    export("run", "model.safetensors", allow=["stranger"])
    with pytest.raises(ConfigError, match=r"'stranger:Signs' is code from outside this package.*allow="):
        codec.load("model.safetensors")
    model = codec.load("model.safetensors", allow=["stranger:Signs"])
    codec.encode_file(SPEECH, "speech.tok", codec=model)
    codec.decode_file("speech.tok", "speech.wav", codec=model)
    assert (tmp_path / "speech.wav").stat().st_size > 44
    codes = model.encode(torch.randn(1, 1, 6400))
    assert codes.shape[1] == 6
    assert codes.max() == 1
