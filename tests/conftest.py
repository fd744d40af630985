"""What many tests share: a codec small enough to be made and run in no time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from codec import native
from codec.errors import BuildError

# before torch is loaded: processes that share the cores take a thread each
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"
SPEECH = DATA / "speech.flac"

try:
    LEVELS: list[Any] = list(native.levels())
except BuildError as error:  # test_native.py fails where there is a compiler
    LEVELS = [pytest.param("", marks=pytest.mark.skip(str(error)))]


@contextmanager
def use_level(monkeypatch: pytest.MonkeyPatch, value: str | None) -> Iterator[None]:
    """Within it ``CODEC_CPU`` has this value, and what was found out of the extension before is forgotten."""
    with monkeypatch.context() as patch:
        patch.delenv("CODEC_CPU", raising=False) if value is None else patch.setenv("CODEC_CPU", value)
        _forget()
        yield
    _forget()


def _forget() -> None:
    native.level.cache_clear()
    for name, module in list(sys.modules.items()):
        if name.startswith(("codec.nn.", "codec.ops.layers")):
            for value in vars(module).values():
                getattr(value, "cache_clear", int)()


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, Any]:
    """Configuration of a causal codec with random weights: 16 kHz, hop 320, 4 codebooks of 64."""
    stage = {"dim": 16, "hidden": 16, "depth": 1}
    stages = [stage | {"stride": 1}, stage | {"stride": 2}]
    return {
        "model": {
            "sample_rate": 16000,
            "channels": 1,
            "encoder": {"name": "fourier_encoder", "dim": 16, "stages": stages},
            "decoder": {"name": "fourier_decoder", "dim": 16, "stages": stages[::-1]},
        },
        "quantizer": {"name": "rvq", "num_codebooks": 4, "codebook_size": 64},
    }


@pytest.fixture(scope="session")
def tiny_model(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights file of such a codec."""
    return make_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", tiny_config)


def in_blocks(network: Any, blocks: Any, batch_size: int = 1) -> Any:
    """What a network gives for a signal in blocks: `blocks()` gives it from its start, at each call."""
    from contextlib import suppress

    from codec.nn.signal import Unmeasured, measure
    from codec.nn.state import StreamState

    def through(state: StreamState) -> Any:
        parts = list(blocks())
        for index, block in enumerate(parts):
            state.last = index == len(parts) - 1
            with suppress(Unmeasured):
                yield network(block, state)

    state = StreamState(network, batch_size)
    measure(network, state, lambda trial: list(through(trial)))
    return through(state)


def make_model(path: Path, config: dict[str, Any], *, seed: int = 0, half: bool = False) -> Path:
    """A weights file of a codec with random weights whose codes depend on what it hears."""
    import torch

    from codec import checkpoint
    from codec.build import build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec = build(config)
        # one training step places the codebooks among the latents
        codec.train()(0.1 * torch.randn(2, codec.channels, 50 * codec.hop))
    checkpoint.save(codec, path, config, {"recipe": "tiny", "licence": "CC0-1.0", "data": "noise"}, half=half)
    return path
