"""Streams give what the whole signal gives, to the bit, however the audio arrives."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from codec import StreamDecoder, StreamEncoder
from codec.build import build
from codec.errors import CodecError
from codec.models.codec import Codec
from tests.conftest import SPEECH

HOP = 320
FRAMES = 24


@pytest.fixture(scope="module")
def codec(tiny_config: dict[str, Any]) -> Codec:
    """A causal codec that heard speech once, so that its codes differ from frame to frame."""
    torch.manual_seed(0)
    codec = build(tiny_config)
    codec.initialise_codebooks(speech().reshape(6, 1, -1))
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


def test_wrong_shapes_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="expected"):
        StreamEncoder(codec).push(torch.zeros(1, 2, 10))


def modes() -> dict[str, Any]:
    return {
        "as it comes": nullcontext,
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("mode", modes())
def test_the_mode_of_the_caller_does_not_change_codes(looking_back: Codec, mode: str) -> None:
    """Convolutions have other kernels where gradients are on; codes must be those of streams all the same."""
    audio = batch()
    stream = looking_back.encoder_stream(3)
    codes = torch.cat(list(stream.run(audio.split(1000, dim=-1))), dim=-1)
    assert len(codes.unique()) > 50
    with modes()[mode]():
        assert torch.equal(looking_back.encode(audio), codes)
        audio_back = looking_back.decode(codes)
        streamed = torch.cat(list(looking_back.decoder_stream(3).run(codes.split(5, dim=-1))), dim=-1)
    assert not audio_back.requires_grad
    torch.testing.assert_close(streamed, audio_back, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def looking_back() -> Codec:
    """A convolutional causal codec with an LSTM, whose latents lie close to many code vectors."""
    torch.manual_seed(0)
    seanet = {"dim": 16, "ratios": [8, 5, 4, 2], "width": 4}
    codec = build(
        {
            "model": {
                "sample_rate": 16000,
                "encoder": {"name": "seanet_encoder"} | seanet,
                "decoder": {"name": "seanet_decoder"} | seanet,
            },
            "quantizer": {"name": "rvq", "num_codebooks": 8, "codebook_size": 256},
        }
    )
    audio = speech().reshape(6, 1, -1)
    codec.initialise(audio)
    codec.initialise_codebooks(audio)
    return codec.eval()


def test_a_stream_moves_to_another_process(codec: Codec, tmp_path: Path) -> None:
    audio = batch()
    whole = codec.encode(audio)
    restored = codec.decode(whole)
    encoder, decoder = codec.encoder_stream(3), codec.decoder_stream(3)
    first = encoder.push(audio[..., :3210])
    heard = decoder.push(first)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    save_file(decoder.state_dict(), tmp_path / "decoder.safetensors")
    encoder.push(audio[..., :7])  # what goes on here is not seen there
    other, back = codec.encoder_stream(3), codec.decoder_stream(3)
    other.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    back.load_state_dict(load_file(tmp_path / "decoder.safetensors"))
    rest = torch.cat([other.push(audio[..., 3210:]), other.flush()], dim=-1)
    assert torch.equal(torch.cat([first, rest], dim=-1), whole)
    sound = torch.cat([heard, back.push(rest), back.flush()], dim=-1)
    assert torch.equal(sound[..., codec.delay :], restored)
    with pytest.raises(CodecError, match="not the state of such a decoder"):
        back.load_state_dict(encoder.state_dict())
    with pytest.raises(CodecError, match="is not the state of such an encoder"):
        codec.encoder_stream(2).load_state_dict(encoder.state_dict())
    with pytest.raises(CodecError, match="of another codec"):
        other.load_state_dict(encoder.state_dict() | {"kept.encoder.nobody.past": torch.zeros(3)})


def test_padded_clips_have_the_codes_that_they_have_alone(codec: Codec, looking_back: Codec) -> None:
    lengths = torch.tensor([7580, 1, 3200, 0])
    audio = torch.cat([batch(), batch()[:1]])
    for one in (codec, looking_back, ahead()):
        codes, frames = one.encode(audio, lengths, num_codebooks=2)
        assert frames.tolist() == [24, 1, 10, 0]
        assert codes.shape == (4, 2, 24)
        for row, length in enumerate(lengths.tolist()):
            count = int(frames[row])
            if count:
                alone = one.encode(audio[row : row + 1, :, :length], num_codebooks=2)
                assert torch.equal(codes[row : row + 1, :, :count], alone)
            assert not codes[row, :, count:].any()
    with pytest.raises(ValueError, match="lengths"):
        codec.encode(audio, torch.tensor([1, 2, 3, 9000]))


def ahead() -> Codec:
    """A codec that looks ahead."""
    torch.manual_seed(0)
    dac = {"dim": 16, "rates": [8, 5, 4, 2], "width": 16}
    codec = build(
        {
            "model": {
                "sample_rate": 16000,
                "encoder": {"name": "dac_encoder"} | dac | {"width": 4},
                "decoder": {"name": "dac_decoder"} | dac,
            },
            "quantizer": {"name": "rvq", "num_codebooks": 4, "codebook_size": 64},
        }
    )
    audio = speech().reshape(6, 1, -1)
    codec.initialise(audio)
    codec.initialise_codebooks(audio)
    return codec.eval()


def test_a_codec_that_looks_ahead_streams_with_the_lag_that_it_states() -> None:
    codec, audio = ahead(), batch()
    codes = codec.encode(audio)
    encoder, decoder = codec.encoder_stream(3), codec.decoder_stream(3)
    got, heard = 0, 0
    parts, sound = [], []
    for start in range(0, audio.shape[-1], HOP):
        parts.append(encoder.push(audio[..., start : start + HOP]))
        got += parts[-1].shape[-1]
        arrived = min(start + HOP, audio.shape[-1]) // HOP * HOP
        due = max(0, (arrived - int(encoder.latency)) // HOP)
        assert due <= got <= due + 1
    parts.append(encoder.flush())
    assert torch.equal(torch.cat(parts, dim=-1), codes)
    for frame in range(codes.shape[-1]):
        sound.append(decoder.push(codes[..., frame : frame + 1]))
        heard += sound[-1].shape[-1]
        assert heard >= (frame + 1) * HOP - decoder.latency
    assert heard < codes.shape[-1] * HOP
    sound.append(decoder.flush())
    assert torch.equal(torch.cat(sound, dim=-1), codec.decode(codes))


def test_lost_frames_fade_as_a_ramp_computed_apart(codec: Codec) -> None:
    """Out over 60 ms from the first lost sample, in over 20 ms from the first one that is there again."""
    codes = codec.encode(batch())[:1]
    pieces = [codes[..., :6], 4, codes[..., 10:15], 1, codes[..., 16:]]
    found = torch.cat(list(codec.decoder_stream().run(pieces)), dim=-1)[0, 0].double().numpy()
    held = codec.quantizer.decode(codes)
    held[..., 6:10], held[..., 15:16] = held[..., 5:6], held[..., 14:15]
    plain = codec.decode_latent(held)[0, 0].detach().double().numpy()
    gain, gains = 1.0, []
    for sample in range(len(plain)):
        lost = 6 <= sample // HOP < 10 or sample // HOP == 15
        gain = max(0.0, gain - 1 / 960) if lost else min(1.0, gain + 1 / 320)
        gains.append(gain)
    np.testing.assert_allclose(found, plain * np.array(gains), atol=1e-5)
    assert min(gains[: 10 * HOP]) == 0
    assert np.abs(found[6 * HOP + 960 : 10 * HOP]).max() == 0


@pytest.mark.parametrize("first", [True, False])
def test_a_gap_in_pieces_is_the_gap(codec: Codec, first: bool) -> None:
    codes = codec.encode(batch())[:1]
    head = [] if first else [codes[..., :5]]
    whole = torch.cat(list(codec.decoder_stream().run([*head, 7, codes[..., 12:]])), dim=-1)
    parts = torch.cat(list(codec.decoder_stream().run([*head, 1, 0, 4, 2, codes[..., 12:]])), dim=-1)
    assert torch.equal(whole, parts)
    if first:
        assert whole[..., : 7 * HOP].abs().max() == 0, "there is nothing to fade out"


def test_rows_lose_frames_one_by_one(codec: Codec) -> None:
    codes = codec.encode(batch())[:2]
    stream = codec.decoder_stream(2)
    parts = [stream.push(codes[..., :8])]
    only = torch.tensor([True, False])
    lost, there = stream.lost(3, only), stream.push(codes[..., 8:11], ~only)
    parts.append(torch.where(only[:, None, None], lost, there))
    parts += [stream.push(codes[..., 11:]), stream.flush()]
    heard = torch.cat(parts, dim=-1)[..., codec.delay :]
    gone = torch.cat(list(codec.decoder_stream().run([codes[:1, :, :8], 3, codes[:1, :, 11:]])), dim=-1)
    assert torch.equal(heard[:1], gone)
    assert torch.equal(heard[1:], codec.decode(codes[1:]))


def test_samples_that_are_no_floats_and_weights_that_were_cast_are_refused(codec: Codec) -> None:
    whole = codec.encode(batch())
    assert torch.equal(codec.encode(batch().double()), whole)
    with pytest.raises(CodecError, match=r"not torch\.int16"):
        codec.encode((batch() * 32767).to(torch.int16))
    with pytest.raises(CodecError, match="not ndarray"):
        codec.encode(batch().numpy())  # type: ignore[arg-type]
    with pytest.raises(CodecError, match=r"not torch\.int16"):
        codec.encoder_stream(3).push((batch() * 32767).to(torch.int16))
    half = copy.deepcopy(codec).half()
    with pytest.raises(CodecError, match=r"weights in torch\.float16"):
        half.encode(batch())
    with pytest.raises(CodecError, match=r"weights in torch\.float16"):
        half.decode(whole)
    assert codec.encode(batch()[:0]).shape == (0, 4, 24)


def test_weights_that_change_are_seen_by_the_next_stream(codec: Codec) -> None:
    """A stream goes on with what its first frames prepared; the next one looks anew, also if it begins with nothing."""
    changing, audio = copy.deepcopy(codec), batch()
    before = torch.cat(list(changing.encoder_stream(3).run([audio])), dim=-1)
    with torch.no_grad():
        for weight in changing.encoder.parameters():
            weight.mul_(1.3)
        for codebook in changing.quantizer.codebooks():
            codebook.table.weight.copy_(codebook.table.weight.roll(1, 0))
    pieces = [audio[..., :0], audio[..., :7], audio[..., 7:4000], audio[..., 4000:]]
    after = torch.cat(list(changing.encoder_stream(3).run(pieces)), dim=-1)
    assert torch.equal(changing.encode(audio), after)
    assert not torch.equal(after, before)


def test_weights_that_change_are_seen_by_the_streams_that_run(codec: Codec) -> None:
    """Each goes on as a stream does that has its memory and begins with the weights of now."""
    changing, audio = copy.deepcopy(codec), batch()
    encoder, decoder = changing.encoder_stream(3), changing.decoder_stream(3)
    codes = encoder.push(audio[..., : 8 * HOP])
    decoder.push(codes)
    with torch.no_grad():
        for weight in changing.parameters():
            weight.mul_(1.3)
    fresh, back = changing.encoder_stream(3), changing.decoder_stream(3)
    fresh.load_state_dict(encoder.state_dict())
    back.load_state_dict(decoder.state_dict())
    found, expected = (one.push(audio[..., 8 * HOP : 12 * HOP]) for one in (encoder, fresh))
    assert torch.equal(found, expected)
    assert torch.equal(decoder.push(codes), back.push(codes))


def test_what_is_lost_first_prepares_no_codebooks(codec: Codec) -> None:
    changing = copy.deepcopy(codec)
    codes = changing.encode(batch()[:1])
    changing.decode(codes)
    with torch.no_grad():
        for codebook in changing.quantizer.codebooks():
            codebook.table.weight.copy_(codebook.table.weight.roll(1, 0))
    heard = torch.cat(list(changing.decoder_stream().run([1, codes])), dim=-1)
    held = torch.cat([torch.zeros(1, changing.decoder.dim, 1), changing.quantizer.decode(codes)], dim=-1)
    plain = changing.decode_latent(held).detach()
    torch.testing.assert_close(heard[..., 2 * HOP :], plain[..., 2 * HOP :], rtol=0, atol=1e-5)


@pytest.mark.parametrize("begins", ["as it comes", "inference_mode"])
def test_a_stream_goes_on_in_another_mode(codec: Codec, begins: str) -> None:
    """What was made in inference mode may not be written into elsewhere."""
    audio = batch()
    codes = codec.encode(audio)
    pieces: list[Tensor | int] = [codes[..., :5], 2, codes[..., 7:15], 1, codes[..., 16:]]
    expected = torch.cat(list(codec.decoder_stream(3).run(pieces)), dim=-1)
    first, then = (
        modes()[mode] for mode in (begins, "inference_mode" if begins != "inference_mode" else "no_grad")
    )
    with first():
        encoder, decoder = codec.encoder_stream(3), codec.decoder_stream(3)
        one = encoder.push(audio[..., :1000])
        heard = [decoder.push(codes[..., :5]), decoder.lost(2)]
    with then():
        two = torch.cat([encoder.push(audio[..., 1000:]), encoder.flush()], dim=-1)
        heard += [decoder.push(codes[..., 7:15]), decoder.lost(1), decoder.push(codes[..., 16:])]
        decoder.clone().reset(torch.tensor([True, False, True]))
        heard.append(decoder.flush())
    assert torch.equal(torch.cat([one, two], dim=-1), codes)
    assert torch.equal(torch.cat(heard, dim=-1)[..., codec.delay :], expected)


def test_threads_stream_one_codec_side_by_side(looking_back: Codec) -> None:
    """With different numbers of codebooks, while its mode is switched."""
    audio = speech()[None, None]
    counts = [8, 4, 8, 4]
    whole = {count: looking_back.encode(audio, num_codebooks=count) for count in (4, 8)}

    def stream(count: int) -> bool:
        parts = list(looking_back.encoder_stream(num_codebooks=count).run(audio.split(2 * HOP, dim=-1)))
        return torch.equal(torch.cat(parts, dim=-1), whole[count])

    with ThreadPoolExecutor(4) as pool:
        found = [pool.submit(stream, count) for count in counts]
        while not all(one.done() for one in found):
            looking_back.eval()
        assert all(one.result() for one in found)


def test_what_cannot_be_pushed_is_refused_and_leaves_the_stream_as_it_was(codec: Codec) -> None:
    audio, codes = batch(), codec.encode(batch())
    encoder, decoder = codec.encoder_stream(3), codec.decoder_stream(3)
    for wrong in (audio[:1], audio[0], audio.numpy()):
        with pytest.raises((ValueError, CodecError)):
            encoder.push(wrong)
        with pytest.raises((ValueError, CodecError)):
            encoder.flush(wrong)
    for wrong in (codes[:1], codes[0], codes.numpy()):
        with pytest.raises(ValueError, match="codes has shape"):
            decoder.push(wrong)
    with pytest.raises(ValueError, match="codes has shape"):
        decoder.flush([codes[:1]])
    for rows in (torch.tensor([True]), [True] * 3, torch.ones(3)):
        with pytest.raises(ValueError, match="expected a bool tensor"):
            encoder.push(audio[..., :HOP], rows)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="expected a bool tensor"):
            decoder.lost(1, rows)  # type: ignore[arg-type]
    for frames in (-1, 1.5):
        with pytest.raises(CodecError, match="cannot be lost"):
            decoder.lost(frames)  # type: ignore[arg-type]
    looking = ahead()
    stream = looking.decoder_stream(3)
    with pytest.raises(CodecError, match="one by one"):
        stream.lost(1, torch.tensor([True, False, True]))
    whole = looking.encode(audio)
    assert torch.equal(torch.cat(list(stream.run([whole])), dim=-1), looking.decode(whole))
    assert torch.equal(torch.cat(list(encoder.run([audio])), dim=-1), codes)
    assert torch.equal(torch.cat(list(decoder.run([codes])), dim=-1), codec.decode(codes))
    with pytest.raises(CodecError, match="at least one"):
        codec.encoder_stream(0)
    with pytest.raises(CodecError, match="not ndarray"):
        codec.decode(codes.numpy())  # type: ignore[arg-type]
    partly = copy.deepcopy(codec)
    partly.decoder.half()
    with pytest.raises(CodecError, match=r"weights in torch\.float16"):
        partly.decode(codes)


def test_padding_may_be_anything(codec: Codec) -> None:
    audio, lengths = batch(), torch.tensor([7580, 3210, 100])
    codes, frames = codec.encode(audio, lengths)
    dirty = audio.clone()
    dirty[1, :, 3210:], dirty[2, :, 100:] = torch.nan, 1e9
    again, _ = codec.encode(dirty, lengths.tolist())  # type: ignore[call-overload]
    assert torch.equal(again, codes)
    assert frames.tolist() == [24, 11, 1]
    with pytest.raises(ValueError, match="lengths are"):
        codec.encode(audio, lengths.float())
