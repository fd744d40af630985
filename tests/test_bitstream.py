"""The .tok file: what goes in comes out, in the size that was promised."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import Gap, Header, TokError, TokReader, TokWriter, read_tok, write_tok
from codec.bitstream.pack import code_bits, pack, packed_size, unpack

SIZES = st.one_of(
    st.integers(2, 65536), st.sampled_from([2, 3, 4, 255, 256, 257, 1024, 65535, 65536, 1 << 18, 1 << 32])
)


def make(sizes=(1024,) * 12, frames=500, seed=0, **fields):
    """A header and random codes for it."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, frames) for size in sizes])
    fields = {"fingerprint": b"12345678", "sample_rate": 16000, "channels": 1, "hop": 320} | fields
    return Header(codebook_sizes=sizes, **fields), codes


def to_bytes(header, codes, **options):
    file = io.BytesIO()
    with TokWriter(file, header, **options) as writer:
        writer.write(codes)
    return file.getvalue()


def from_bytes(data, **options):
    reader = TokReader(io.BytesIO(data), **options)
    return reader, list(reader)


@given(sizes=st.lists(SIZES, min_size=1, max_size=9), frames=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_packing_returns_every_code_in_exactly_the_promised_bits(sizes, frames, seed):
    _, codes = make(tuple(sizes), frames, seed)
    bits = code_bits(tuple(sizes))
    assert all(2 ** (b - 1) < size <= 2**b for b, size in zip(bits, sizes, strict=True))
    data = pack(codes, bits)
    assert len(data) == packed_size(bits, frames) == -(-frames * sum(bits) // 8)
    np.testing.assert_array_equal(unpack(data, bits, frames), codes)
    prefix = frames // 2
    np.testing.assert_array_equal(unpack(data[: packed_size(bits, prefix)], bits, prefix), codes[:, :prefix])


@pytest.mark.parametrize("size", [2, 3, 5, 1000, 1024, 65535, 65536])
def test_packing_every_value_of_a_book(size):
    codes = np.arange(size)[None]
    bits = code_bits((size,))
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, size), codes)


def test_packing_follows_the_specified_bit_order():
    # two codebooks of 3 and 5 bits, two frames: 101 00001 | 010 11111
    assert pack(np.array([[5, 2], [1, 31]]), (3, 5)) == bytes((0b10100001, 0b01011111))


HEADERS = st.builds(
    Header,
    fingerprint=st.binary(min_size=8, max_size=8),
    sample_rate=st.integers(1, 768000),
    channels=st.just(2),
    hop=st.integers(1, 100000),
    codebook_sizes=st.lists(SIZES, min_size=1, max_size=20).map(
        lambda sizes: tuple(size for size in sizes for _ in range(2))
    ),
    num_samples=st.none() | st.integers(0, 1 << 60),
    model_sample_rate=st.integers(0, 192000),
    channel_policy=st.sampled_from(["mix", "split", "joint"]),
    resampler=st.integers(0, 255),
)


@given(header=HEADERS)
def test_header_survives_the_file(header):
    reader = TokReader(io.BytesIO(header.to_bytes()))
    assert reader.header == header


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_sequence_of_writes_reads_back(data):
    sizes = tuple(data.draw(st.lists(SIZES, min_size=1, max_size=4)))
    pieces = data.draw(st.lists(st.integers(0, 30), max_size=6))
    header, codes = make(sizes, sum(pieces), num_samples=data.draw(st.none() | st.just(sum(pieces))))
    file = io.BytesIO()
    with TokWriter(file, header, frames_per_chunk=data.draw(st.integers(1, 20))) as writer:
        for piece in np.split(codes, np.cumsum(pieces), axis=1):
            writer.write(piece)
    reader, chunks = from_bytes(file.getvalue())
    np.testing.assert_array_equal(np.concatenate([codes[:, :0], *chunks], axis=1), codes)
    assert reader.end.frames == sum(pieces)
    assert reader.num_samples == header.num_samples


@pytest.mark.parametrize("seconds", [10, 10.02, 12.5, 17.99, 18, 61, 600])
@pytest.mark.parametrize("source_rate", [16000, 44100])
def test_file_is_within_one_percent_of_the_stated_rate(seconds, source_rate):
    samples = round(seconds * source_rate)
    frames = -(-round(seconds * 16000) // 320)
    header, codes = make(frames=frames, sample_rate=source_rate, model_sample_rate=16000, num_samples=samples)
    assert header.bitrate == 6000
    assert len(to_bytes(header, codes)) <= 1.01 * header.bitrate / 8 * seconds


def test_sample_count_may_come_at_the_end():
    header, codes = make()
    file = io.BytesIO()
    with TokWriter(file, header) as writer:
        writer.write(codes)
        writer.num_samples = 159_999
    reader, _ = from_bytes(file.getvalue())
    assert reader.header.num_samples is None
    assert reader.num_samples == 159_999


def test_write_tok_and_read_tok(tmp_path):
    header, codes = make(num_samples=160_000)
    write_tok(tmp_path / "a.tok", header, codes.astype(np.uint16))
    read_header, read_codes = read_tok(tmp_path / "a.tok")
    assert read_header == header
    assert read_codes.dtype == np.int64
    np.testing.assert_array_equal(read_codes, codes)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tok"]


def test_every_frame_can_be_read_from_a_pipe_as_soon_as_it_is_written():
    header, codes = make(frames=3)
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as source, open(write_end, "wb") as sink:
        writer = TokWriter(sink, header, frames_per_chunk=1)
        reader = iter(TokReader(source))
        for frame in range(3):
            writer.write(codes[:, frame : frame + 1])
            np.testing.assert_array_equal(next(reader), codes[:, frame : frame + 1])
        writer.close()
        assert list(reader) == []


def test_unbuffered_pipe_that_takes_little_at_a_time():
    header, codes = make(frames=20_000)
    script = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data)"
    with subprocess.Popen(
        [sys.executable, "-c", script], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as echo:
        with TokWriter(echo.stdin, header, frames_per_chunk=20_000) as writer:
            writer.write(codes)
        echo.stdin.close()
        np.testing.assert_array_equal(np.concatenate(list(TokReader(echo.stdout)), axis=1), codes)


def test_reading_starts_where_the_file_stands():
    header, codes = make(frames=50)
    file = io.BytesIO(b"something before" + to_bytes(header, codes, frames_per_chunk=2))
    file.seek(16)
    reader = TokReader(file)
    np.testing.assert_array_equal(np.concatenate(list(reader.seek_frames(31, 9)), axis=1), codes[:, 31:40])
    np.testing.assert_array_equal(np.concatenate(list(reader), axis=1), codes)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((11, 5), int),
        np.zeros((12, 5)),
        np.zeros(12, int),
        np.full((12, 5), 1024),
        np.full((12, 5), -1),
    ],
)
def test_wrong_codes_are_refused(codes):
    header, _ = make()
    with pytest.raises(TokError):
        TokWriter(io.BytesIO(), header).write(codes)


@pytest.mark.parametrize(
    "fields",
    [
        {"fingerprint": b"short"},
        {"sample_rate": 0},
        {"channels": 0},
        {"hop": -1},
        {"num_samples": -1},
        {"channel_policy": "loud"},
        {"channels": 5, "channel_policy": "split"},
        {"channels": 2, "channel_policy": "split", "sizes": (300, 7, 7, 300)},
    ],
)
def test_header_refuses_what_the_file_cannot_hold(fields):
    with pytest.raises(TokError):
        make(**fields)


@pytest.mark.parametrize("sizes", [(), (1,), (1024, 0), (1 << 33,), (2,) * 1025])
def test_header_refuses_senseless_books(sizes):
    with pytest.raises(TokError):
        Header(b"12345678", 16000, 1, 320, sizes)


def test_nothing_is_written_after_an_exception():
    header, codes = make(frames=10)
    file = io.BytesIO()

    def fail():
        with TokWriter(file, header, frames_per_chunk=4) as writer:
            writer.write(codes)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    reader, chunks = from_bytes(file.getvalue(), errors="skip")
    assert reader.end is None
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), codes[:, :8])
    with pytest.raises(TokError, match="no end record"):
        from_bytes(file.getvalue())


class CountingFile(io.BytesIO):
    """Counts the bytes that are read from it."""

    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data

    def read1(self, size=-1):
        data = super().read1(size)
        self.count += len(data)
        return data


@pytest.fixture(scope="module")
def live_hour():
    """10,000 packets of one frame, more than the index has entries for."""
    header, codes = make((256, 16), 10_000)
    return header, codes, to_bytes(header, codes, frames_per_chunk=1)


@pytest.mark.parametrize(
    ("start", "count"), [(0, 1), (0, 50), (4095, 3), (7777, 20), (9_999, 1), (9_990, 99), (5, 0)]
)
def test_seeking_reads_only_what_it_needs(live_hour, start, count):
    _header, codes, data = live_hour
    file = CountingFile(data)
    reader = TokReader(file)
    file.count = 0
    pieces = list(reader.seek_frames(start, count))
    np.testing.assert_array_equal(
        np.concatenate([codes[:, :0], *pieces], axis=1), codes[:, start : start + count]
    )
    assert file.count < len(data) / 3
    assert reader.find_end().frames == 10_000


def test_seeking_to_the_rest_and_past_the_end(live_hour):
    _header, codes, data = live_hour
    reader = TokReader(io.BytesIO(data))
    np.testing.assert_array_equal(np.concatenate(list(reader.seek_frames(9_900)), axis=1), codes[:, 9_900:])
    assert list(reader.seek_frames(10_000, 5)) == []
    np.testing.assert_array_equal(next(iter(reader)), codes[:, :1])


@pytest.mark.parametrize("index", [True, False])
def test_seeking_with_and_without_an_index_and_across_gaps(index):
    header, codes = make((1024, 7), 400)
    file = io.BytesIO()
    with TokWriter(file, header, frames_per_chunk=10, index=index) as writer:
        writer.write(codes[:, :195])
        writer.write_gap(20)
        writer.write(codes[:, 215:])
    file.seek(0)
    reader = TokReader(file)
    for start, count in ((0, 400), (150, 100), (194, 30), (200, 10), (214, 2), (215, 1)):
        at = start
        for piece in reader.seek_frames(start, count):
            if isinstance(piece, Gap):
                assert piece.start == at
                assert 195 <= at < at + piece.frames <= 215
                at += piece.frames
            else:
                np.testing.assert_array_equal(piece, codes[:, at : at + piece.shape[1]])
                at += piece.shape[1]
        assert at == start + count
