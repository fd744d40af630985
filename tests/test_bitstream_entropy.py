"""Entropy-coded chunks: every code comes back, no chunk grows, and an independent range decoder agrees."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import Gap, Header, Prior, TokError, TokReader, TokWriter, read_tok, repair, write_tok
from codec.bitstream.entropy import EntropyCoder, TablesError, _range_encode, _RangeDecoder
from codec.bitstream.fit import fit_prior
from codec.bitstream.records import ENTROPY, RAW, put_record, put_varint


def header_of(sizes, **fields):
    return Header(b"12345678", 16000, 1, 320, sizes, **fields)


def random_prior(sizes, dim=4, seed=0):
    rng = np.random.default_rng(seed)
    tables = rng.integers(-60, 61, (3, sum(sizes), dim)).astype(np.int8)
    return Prior(sizes, *tables, rng.integers(-500, 500, sum(sizes)).astype(np.int16))


def skewed(sizes, frames, seed=0, stay=0.5):
    """Codes with habits: small ones are common, and a code often is that of the frame before."""
    rng = np.random.default_rng(seed)
    codes = np.stack([(rng.geometric(min(0.9, 8 / size), frames) - 1) % size for size in sizes])
    same = rng.random(codes.shape) < stay
    for t in range(1, frames):
        codes[same[:, t], t] = codes[same[:, t], t - 1]
    return codes


@given(
    sizes=st.lists(st.integers(2, 300), min_size=1, max_size=4).map(tuple),
    frames=st.integers(1, 60),
    streams=st.integers(1, 2),
    with_prior=st.booleans(),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_every_code_comes_back(sizes, frames, streams, with_prior, seed):
    prior = random_prior((*sizes, 7)) if with_prior else None  # a prior of more codebooks than the file
    rows = tuple(size for size in sizes for _ in range(streams))
    coder = EntropyCoder(rows, streams, prior)
    codes = skewed(rows, frames, seed)
    np.testing.assert_array_equal(coder.decode(coder.encode(codes), frames, 0), codes)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_range_coder_with_extreme_shares(data):
    """Shares of 1 and of nearly everything, where carries run through many words."""
    ends = np.array([1, 2, (1 << 24) - 1, 1 << 24], np.int64)
    codes = data.draw(st.lists(st.sampled_from([0, 1, 2, 2, 2, 2, 3, 3]), max_size=400))
    lows = np.concatenate([[0], ends[:-1]])
    encoded = _range_encode([[int(lows[c]), int(ends[c] - lows[c])] for c in codes])
    decoder = _RangeDecoder(encoded, 0)
    assert [decoder.next(ends) for _ in codes] == codes


def test_library_of_others_decodes_our_bytes():
    """constriction's range decoder reads what ours writes: 32-bit words, 64-bit state, 24-bit shares."""
    constriction = pytest.importorskip("constriction", reason="the constriction package is not installed")
    rng = np.random.default_rng(5)
    shares = rng.integers(1, 50, (500, 64))
    shares[:, -1] += (1 << 24) - shares.sum(axis=1)
    codes = np.where(rng.random(500) < 0.5, 63, rng.integers(0, 64, 500)).astype(np.int32)
    lows = np.cumsum(shares, axis=1) - shares
    spans = [[int(lows[i, c]), int(shares[i, c])] for i, c in enumerate(codes)]
    data = _range_encode(spans)
    words = np.frombuffer(data + bytes(8 + -len(data) % 4), ">u4").astype(np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    family = constriction.stream.model.Categorical(perfect=False)
    # it spreads 2 ** 24 less one per symbol over the weights and adds one each: so these weights give our shares
    decoded = decoder.decode(family, (shares - 1).astype(np.float32))
    np.testing.assert_array_equal(decoded, codes)


@pytest.mark.parametrize("limit", [2, 1024])
@pytest.mark.parametrize("frames_per_chunk", [1, 10, 400])
def test_chunks_never_grow(frames_per_chunk, limit):
    sizes = (1024,) * 4
    codes = np.random.default_rng(0).integers(0, limit, (4, 400))
    sizes_of = {}
    for entropy in (False, True):
        file = io.BytesIO()
        with TokWriter(file, header_of(sizes), frames_per_chunk=frames_per_chunk, entropy=entropy) as writer:
            writer.write(codes)
        sizes_of[entropy] = len(file.getvalue())
    assert sizes_of[True] <= sizes_of[False]
    assert writer.saved_bytes == 0 if sizes_of[True] == sizes_of[False] else writer.saved_bytes > 0


def test_codes_with_habits_shrink_and_a_fitting_prior_shrinks_them_more(tmp_path):
    sizes = (64, 64)
    codes = skewed(sizes, 300, stay=0)
    likely = np.zeros(128, np.int16)
    likely[:64] = likely[64:] = np.maximum(-1000, -50 * np.arange(64))
    prior = Prior(sizes, *np.zeros((3, 128, 1), np.int8), likely)
    size = {}
    for name, options in {
        "raw": {},
        "learned": {"entropy": True},
        "prior": {"entropy": True, "prior": prior},
    }.items():
        path = tmp_path / f"{name}.tok"
        write_tok(path, header_of(sizes), codes, **options)
        size[name] = path.stat().st_size
        np.testing.assert_array_equal(read_tok(path, prior=prior)[1], codes)
    assert size["prior"] < size["learned"] < 0.95 * size["raw"]
    with pytest.raises(TablesError, match=f"tables {prior.id:08x}"):
        read_tok(tmp_path / "prior.tok")
    with pytest.raises(TablesError), open(tmp_path / "prior.tok", "rb") as file:
        list(TokReader(file, errors="skip", prior=random_prior(sizes)))
    found = repair(
        tmp_path / "prior.tok", tmp_path / "repaired.tok"
    )  # chunks are copied, tables are not needed
    assert (found.frames, found.gaps) == (300, ())
    np.testing.assert_array_equal(read_tok(tmp_path / "repaired.tok", prior=prior)[1], codes)


def test_silence_cannot_make_a_chunk_shorter_than_a_reader_can_afford():
    codes = np.zeros((4, 2000), np.int64)
    payload = EntropyCoder((1024,) * 4).encode(codes)
    assert len(payload) == 4 + 4 * 2000 // 32
    with pytest.raises(TokError):
        EntropyCoder((1024,) * 4).decode(payload[:-1], 2000, 0)


def test_large_books_stay_raw(tmp_path):
    write_tok(tmp_path / "a.tok", header_of((1 << 18,)), np.zeros((1, 100), int), entropy=True)
    assert read_tok(tmp_path / "a.tok")[1].shape == (1, 100)
    assert bytes((0xF5, 0xA0 | RAW)) in (tmp_path / "a.tok").read_bytes()


def test_hostile_payloads_decode_to_codes_or_to_one_error():
    rng = np.random.default_rng(0)
    header = header_of((1000, 7, 300))
    prior = random_prior((1000, 7, 300))
    for length in (0, 3, 4, 20, 50):
        for start in (bytes(4), prior.id.to_bytes(4, "little"), b"\xff" * 4):
            for fill in (bytes(length), b"\xff" * length, rng.bytes(length)):
                body = put_varint(0) + put_varint(9) + start + fill
                data = header.to_bytes() + put_record(ENTROPY, body)
                for errors in ("strict", "skip"):
                    reader = TokReader(io.BytesIO(data), errors=errors, prior=prior)
                    try:
                        pieces = list(reader)
                    except TokError:
                        continue
                    for piece in pieces:
                        assert isinstance(piece, Gap) or (piece.max(axis=1) < header.codebook_sizes).all()


def test_prior_survives_its_bytes():
    prior = random_prior((5, 300, 2))
    copy = Prior.from_bytes(prior.to_bytes())
    assert copy.id == prior.id != random_prior((5, 300, 2), seed=1).id
    assert copy.to_bytes() == prior.to_bytes()


@pytest.mark.parametrize(
    "data", [b"", b"TOKP\x01", b"TOKP\x02\1\1\1", b"TOKP\x01\xff\xff\xff\xff\x0f" + bytes(50)]
)
def test_bytes_that_are_no_prior(data):
    with pytest.raises(TokError):
        Prior.from_bytes(data)


def test_prior_of_other_books_is_refused():
    with pytest.raises(TokError, match="books"):
        TokWriter(io.BytesIO(), header_of((1024, 1024)), entropy=True, prior=random_prior((1024, 512)))
    with pytest.raises(TokError, match="do not fit"):
        Prior((4, 4), *np.zeros((3, 7, 2), np.int8), np.zeros(8, np.int16))


def test_fitted_prior_saves_what_plain_counting_cannot():
    """Codes that walk: hard to guess from counts, easy from the frame before; the second codebook follows the first."""
    rng = np.random.default_rng(0)

    def walk(frames):
        first = np.cumsum(rng.integers(-1, 2, frames)) % 32
        return np.stack([first, (first * 3 + rng.integers(0, 2, frames)) % 16])

    sizes = (32, 16)
    prior = fit_prior([walk(200) for _ in range(60)], sizes, dim=8, passes=30, batch=512, rate=0.05)
    codes = walk(400)
    learned, fitted = (len(EntropyCoder(sizes, 1, p).encode(codes)) * 8 / 400 for p in (None, prior))
    assert fitted < 1.25 * (np.log2(3) + 1) + 32 / 400 < learned
    one_book = EntropyCoder(sizes[:1], 1, prior)
    assert len(one_book.encode(codes[:1])) * 8 / 400 < 2.4
