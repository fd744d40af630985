"""Streams give what the whole signal gives, to the bit, however the audio arrives."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codec.build import build
from codec.errors import CodecError
from codec.models.codec import Codec
from codec.stream import StreamDecoder, StreamEncoder
from tests.conftest import SPEECH

HOP = 320
FRAMES = 24


@pytest.fixture(scope="module")
def codec(tiny_config: dict[str, Any]) -> Codec:
    """A causal codec that heard speech once, so that its codes differ from frame to frame."""
    torch.manual_seed(0)
    codec = build(tiny_config)
    codec.start_books(speech().reshape(6, 1, -1))
    return codec.eval()


def speech(samples: int = 96000) -> Tensor:
    audio, _ = soundfile.read(SPEECH, dtype="float32", frames=samples)
    return torch.from_numpy(audio)


def batch() -> Tensor:
    """Three different pieces of speech, the end inside a frame."""
    return torch.stack([speech()[k : k + FRAMES * HOP - 100] for k in (3000, 30000, 60000)])[:, None]


def pieces(total: int) -> st.SearchStrategy[list[int]]:
    """Sizes, zeros among them, that add to `total`."""
    edges = st.lists(st.integers(0, total), max_size=16).map(sorted)
    return edges.map(lambda e: [b - a for a, b in pairwise([0, *e, total])])


@settings(max_examples=25, deadline=None)
@given(samples=pieces(FRAMES * HOP - 100), frames=pieces(FRAMES))
def test_any_chunking_gives_the_codes_and_samples_of_the_whole(
    codec: Codec, samples: list[int], frames: list[int]
) -> None:
    audio = batch()
    with torch.inference_mode():
        whole = codec.encode(audio)
        restored = codec.decode(whole)
    encoder, decoder = StreamEncoder(codec, batch_size=3), StreamDecoder(codec, batch_size=3)
    codes = torch.cat(
        [*(encoder.push(part) for part in audio.split(samples, dim=-1)), encoder.flush()], dim=-1
    )
    assert torch.equal(codes, whole)
    heard = torch.cat(
        [*(decoder.push(part) for part in whole.split(frames, dim=-1)), decoder.flush()], dim=-1
    )
    assert torch.equal(heard[..., codec.delay :], restored)


def test_a_row_does_not_depend_on_its_batch_nor_on_padding(codec: Codec) -> None:
    audio = batch()
    with torch.inference_mode():
        together = codec.encode(audio)
        for row in range(3):
            assert torch.equal(codec.encode(audio[row : row + 1]), together[row : row + 1])
        longer = codec.encode(torch.cat([audio, torch.zeros(3, 1, 5000)], dim=-1))
    assert torch.equal(longer[..., :FRAMES], together)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_codes(codec: Codec, threads: int) -> None:
    before = torch.get_num_threads()
    with torch.inference_mode():
        expected = codec.encode(batch())
        torch.set_num_threads(threads)
        try:
            assert torch.equal(codec.encode(batch()), expected)
            assert torch.equal(codec.encode(batch()[:1, :, :HOP]), expected[:1, :, :1])
        finally:
            torch.set_num_threads(before)


def test_streams_of_one_model_do_not_meet(codec: Codec) -> None:
    audio = batch()[..., : FRAMES * HOP // HOP * HOP]
    streams = [StreamEncoder(codec) for _ in range(3)]
    parts: list[list[Tensor]] = [[], [], []]
    for piece in audio.split(777, dim=-1):
        for row, stream in enumerate(streams):
            parts[row].append(stream.push(piece[row : row + 1]))
    for row, stream in enumerate(streams):
        codes = torch.cat([*parts[row], stream.flush()], dim=-1)
        with torch.inference_mode():
            assert torch.equal(codes, codec.encode(audio[row : row + 1]))


def test_rows_stand_still_and_begin_anew(codec: Codec) -> None:
    audio = batch()[..., : 12 * HOP]
    with torch.inference_mode():
        whole = codec.encode(audio)
    encoder = StreamEncoder(codec, batch_size=3)
    decoder = StreamDecoder(codec, batch_size=3)
    place, codes, heard = [0, 0, 0], [[], [], []], [[], [], []]
    generator = torch.Generator().manual_seed(1)
    while min(place) < 12:
        active = torch.rand(3, generator=generator) < 0.5
        active &= torch.tensor([p < 12 for p in place])
        at = [min(p, 11) for p in place]
        block = torch.stack([audio[r, :, at[r] * HOP : (at[r] + 1) * HOP] for r in range(3)])
        out = encoder.push(block, active)
        back = decoder.push(out, active)
        for row in active.nonzero().flatten().tolist():
            codes[row].append(out[row])
            heard[row].append(back[row])
            place[row] += 1
    assert torch.equal(torch.stack([torch.cat(c, dim=-1) for c in codes]), whole)
    streamed = torch.stack([torch.cat(h, dim=-1) for h in heard])
    with torch.inference_mode():
        expected = codec.decode(whole)[..., : 12 * HOP - codec.delay]
    assert torch.equal(streamed[..., codec.delay :], expected)
    encoder.reset(torch.tensor([True, False, True]))
    again = encoder.push(audio[..., :HOP])
    assert torch.equal(again[::2], whole[::2, :, :1])
    assert not torch.equal(again[1], whole[1, :, :1])


def test_standing_still_inside_a_frame_is_refused(codec: Codec) -> None:
    encoder = StreamEncoder(codec)
    encoder.push(torch.zeros(1, 1, 7))
    with pytest.raises(ValueError, match="between frames"):
        encoder.push(torch.zeros(1, 1, HOP - 7), torch.tensor([True]))


def test_a_clone_goes_its_own_way(codec: Codec) -> None:
    audio = batch()[:1]
    encoder = StreamEncoder(codec)
    encoder.push(audio[..., :1000])
    other = encoder.clone()
    first = torch.cat([encoder.push(audio[..., 1000:]), encoder.flush()], dim=-1)
    other.push(torch.zeros(1, 1, 640))
    second = other.clone()
    assert not torch.equal(other.push(audio[..., 1000:3000]), first[..., :6])
    del second
    with torch.inference_mode():
        assert torch.equal(first, codec.encode(audio)[..., 3:])


def test_wrong_shapes_and_codecs_that_look_ahead_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="expected"):
        StreamEncoder(codec).push(torch.zeros(1, 2, 10))
    codec.causal = False
    try:
        with pytest.raises(CodecError, match="not causal"):
            StreamEncoder(codec)
    finally:
        codec.causal = True
