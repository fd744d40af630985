"""What docs/tok-format.md settles beyond the layout, on files made by hand."""

import hashlib
import io
import json
import struct

import numpy as np
import pytest

from codec import checkpoint
from codec.bitstream import Gap, Header, Prior, TokReader, TokWriter
from codec.bitstream.entropy import TablesError
from codec.bitstream.records import END, ENTROPY, HEADER, LOST, RAW, put_record, put_varint
from codec.errors import TokError
from tests.test_bitstream_damage import with_crc

HEADER_200 = Header(b"12345678", 16000, 1, 320, (200,))  # one code is one byte


def chunk(first, payload, kind=RAW, frames=None):
    frames = len(payload) if frames is None else frames
    return put_record(kind, put_varint(first) + put_varint(frames) + bytes(payload))


def end(frames, samples=0):
    return put_record(END, put_varint(frames) + put_varint(samples) + b"\0")


def read(data, errors="strict", **options):
    """The reader after reading, and frames: a code each, None where lost."""
    reader, frames = TokReader(io.BytesIO(data), errors=errors, **options), []
    for piece in reader:
        frames += [None] * piece.frames if isinstance(piece, Gap) else piece[0].tolist()
    return reader, frames


def test_the_fingerprint_can_be_computed_from_the_weights_file_alone(tiny_model):
    data = tiny_model.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + length])
    metadata = table.pop("__metadata__")
    types = {
        "F32": "torch.float32",
        "F16": "torch.float16",
        "I64": "torch.int64",
        "I32": "torch.int32",
        "BOOL": "torch.bool",
    }
    digest = hashlib.sha256(metadata["config"].encode())
    for name in sorted(table):
        told = table[name]
        shape = (
            f"({told['shape'][0]},)" if len(told["shape"]) == 1 else f"({', '.join(map(str, told['shape']))})"
        )
        digest.update(
            b"\0" + name.encode() + b"\0" + types[told["dtype"]].encode() + b"\0" + shape.encode() + b"\0"
        )
        first, last = (8 + length + offset for offset in told["data_offsets"])
        digest.update(data[first:last])
    assert (
        digest.hexdigest()[:16]
        == metadata["fingerprint"]
        == checkpoint.load(tiny_model).metadata["fingerprint"]
    )


def test_samples_are_judged_by_the_end_record_and_not_in_a_cut_file():
    header = Header(b"12345678", 16000, 1, 320, (200,), num_samples=64000)
    data = header.to_bytes() + chunk(0, [1, 2])
    with pytest.raises(TokError, match="2 frames cannot be 64000 samples"):
        read(data + end(2, 64001))
    with pytest.raises(TokError, match="is cut"):
        read(data)
    reader, frames = read(data, "skip")
    assert (reader.header.num_samples, frames) == (64000, [1, 2])


def test_header_and_end_that_disagree_are_damage_and_the_header_counts():
    header = Header(b"12345678", 16000, 1, 320, (200,), num_samples=600)
    data = header.to_bytes() + chunk(0, [1, 2]) + end(2, 611)
    with pytest.raises(TokError, match="the header tells of 600 samples, the end of 610"):
        read(data)
    assert read(data, "skip")[0].num_samples == 600


def test_an_end_of_fewer_frames_is_damage_and_all_frames_count():
    data = HEADER_200.to_bytes() + chunk(0, [1, 2, 3]) + end(2)
    with pytest.raises(TokError, match="frame 3 was due"):
        read(data)
    assert read(data, "skip")[1] == [1, 2, 3]


@pytest.mark.parametrize("frames", [14, 15])  # a code too large; a wrong number of bytes
def test_a_good_record_that_holds_damage_is_passed_over_whole(frames):
    inside = chunk(3, [7, 8, 9]) + bytes(1)  # a good record, if somebody looked for one there
    assert len(inside) == 14
    data = (
        HEADER_200.to_bytes() + chunk(0, [1, 2, 3]) + chunk(3, inside, frames=frames) + chunk(3 + frames, [4])
    )
    with pytest.raises(TokError):
        read(data + end(4 + frames))
    assert read(data + end(4 + frames), "skip")[1] == [1, 2, 3, *[None] * frames, 4]


def test_a_chunk_before_its_turn_is_passed_over():
    data = HEADER_200.to_bytes() + chunk(0, [1, 2, 3]) + chunk(1, [9, 9]) + chunk(3, [4]) + end(4)
    with pytest.raises(TokError, match="frame 3 was due, and frame 1 came"):
        read(data)
    assert read(data, "skip")[1] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("sample_rate", "channels", "hop", "fits"),
    [
        (1 << 31, 1 << 16, 1 << 31, True),
        ((1 << 31) + 1, 1, 1, False),
        (1, (1 << 16) + 1, 1, False),
        (1, 1, (1 << 31) + 1, False),
        (0, 1, 1, False),
        (1, 0, 1, False),
        (1, 1, 0, False),
    ],
)
def test_limits_of_the_header(sample_rate, channels, hop, fits):
    numbers = put_varint(sample_rate) + put_varint(channels) + b"\0\0" + put_varint(hop)
    body = b"\0" + b"12345678" + numbers + b"\1\1\2\0"
    data = with_crc(b"\x89TOK\1" + put_varint(len(body)) + body) + end(0)
    if fits:
        assert read(data)[0].header.hop == hop
    else:
        with pytest.raises(TokError, match="must be from 1 to"):
            read(data)


def test_readers_take_long_numbers_and_do_not_look_at_filling_bits():
    header = Header(b"12345678", 16000, 1, 320, (4,))
    body = (
        b"\x80\x00" + b"\x83\x80\x00" + bytes([0b01_10_11_11])
    )  # frame 0, three frames, two bits of filling
    assert read(header.to_bytes() + put_record(RAW, body) + end(3))[1] == [1, 2, 3]


@pytest.mark.parametrize("errors", ["strict", "skip"])
def test_a_copy_that_contradicts_the_header_does_not_count(errors):
    other = Header(b"87654321", 8000, 2, 160, (3, 3), num_samples=7)
    data = HEADER_200.to_bytes() + chunk(0, [1, 2]) + put_record(HEADER, other.to_bytes()) + end(2)
    reader, frames = read(data, errors)
    assert (reader.header, frames) == (HEADER_200, [1, 2])


@pytest.mark.parametrize("errors", ["strict", "skip"])
def test_tables_that_a_reader_lacks_are_no_damage(errors):
    def tables(size):
        return Prior((size,), *np.zeros((3, size, 2), np.int8), np.zeros(size, np.int16))

    file = io.BytesIO()
    with TokWriter(file, HEADER_200, entropy=True, prior=tables(200)) as writer:
        writer.write(np.zeros((1, 50), np.int64))
    assert read(file.getvalue(), errors, prior=tables(200))[1] == [0] * 50
    for prior in (None, tables(100)):
        with pytest.raises(TablesError, match=f"need the entropy tables {tables(200).id:08x}"):
            read(file.getvalue(), errors, prior=prior)


def test_the_number_of_the_tables_does_not_count_among_the_bytes_of_the_coder():
    for size, good in ((1, False), (2, True)):  # 64 codes need two bytes
        data = HEADER_200.to_bytes() + chunk(0, bytes(4 + size), ENTROPY, frames=64) + end(64)
        if good:
            assert len(read(data)[1]) == 64
        else:
            with pytest.raises(TokError, match="cannot be an entropy-coded payload"):
                read(data)


def test_a_lost_record_and_a_jump_behind_it_are_both_lost():
    data = HEADER_200.to_bytes() + chunk(0, [1]) + chunk(1, b"", LOST, frames=2) + chunk(5, [6]) + end(6)
    assert read(data, "skip")[1] == [1, *[None] * 4, 6]


@pytest.mark.parametrize("errors", ["strict", "skip"])
def test_what_follows_the_end_is_not_part_of_the_file(errors):
    one = HEADER_200.to_bytes() + chunk(0, [1, 2]) + end(2)
    assert read(one + one, errors)[1] == [1, 2]
