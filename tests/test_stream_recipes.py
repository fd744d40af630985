"""Every causal recipe: real speech in any pieces gives the codes and the samples of the whole."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec import StreamDecoder, StreamEncoder
from codec.build import build
from codec.models.codec import Codec
from codec.train import recipes
from codec.train.compose import compose
from codec.train.config import parse
from codec.train.size import tiny
from tests.conftest import SPEECH

CAUSAL = ["default", "encodec", "mimi", "soundstream"]
SECONDS = 0.7


@cache
def narrow(name: str) -> Codec:
    """The recipe at `size=tiny`, as a run would start it."""
    config = tiny(parse(compose(f"+recipe={name}")))
    torch.manual_seed(0)
    codec = build(config.codec)
    length = codec.sample_rate // 2
    crops = speech(codec, 0.0, 6.0).unfold(-1, length, length)[0].transpose(0, 1).contiguous()
    codec.initialise(crops)
    codec.initialise_codebooks(crops)
    return codec.eval()


def speech(codec: Codec, start: float, seconds: float) -> Tensor:
    """A piece `(1, C, N)` of a recording at the rate of the codec."""
    audio, rate = soundfile.read(SPEECH, dtype="float32")
    audio = soxr.resample(audio, rate, codec.sample_rate)
    first = round(start * codec.sample_rate)
    piece = audio[first : first + round(seconds * codec.sample_rate)].astype(np.float32)
    return torch.from_numpy(piece).expand(1, codec.channels, -1)


def test_the_list_is_complete() -> None:
    assert [name for name in recipes.names() if narrow(name).causal] == CAUSAL


@pytest.mark.slow
@pytest.mark.parametrize("name", CAUSAL)
def test_two_hundred_chunkings(name: str) -> None:
    codec = narrow(name)
    audio = speech(codec, 1.0, SECONDS)
    with torch.inference_mode():
        whole = codec.encode(audio)
        restored = codec.decode(whole)
    codebooks = whole.shape[1]
    assert all(len(whole[0, codebook].unique()) > 1 for codebook in range(codebooks)), (
        "codes that differ, to be compared"
    )

    def pieces(total: int) -> st.SearchStrategy[list[int]]:
        edges = st.lists(st.integers(0, total), max_size=8).map(sorted)
        return edges.map(lambda e: [b - a for a, b in pairwise([0, *e, total])])

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(samples=pieces(audio.shape[-1]), frames=pieces(whole.shape[-1]))
    def check(samples: list[int], frames: list[int]) -> None:
        encoder, decoder = StreamEncoder(codec), StreamDecoder(codec)
        parts = [encoder.push(part) for part in audio.split(samples, dim=-1)]
        assert torch.equal(torch.cat([*parts, encoder.flush()], dim=-1), whole)
        heard = [decoder.push(part) for part in whole.split(frames, dim=-1)]
        found = torch.cat([*heard, decoder.flush()], dim=-1)[..., codec.delay :]
        torch.testing.assert_close(found, restored, rtol=0, atol=1e-5)

    check()
