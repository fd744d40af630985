"""Damaged, cut, foreign and hostile .tok files: one clear error or the rest of the file, and nothing else."""

import io
import os
import random
import signal
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest

import codec.bitstream.source as source_module
from codec.bitstream import Gap, Header, TokError, TokReader, TokWriter, read_tok, repair, write_tok
from codec.bitstream.chunk import MAX_GAP
from codec.bitstream.records import END, HEADER, INDEX, MAX_BODY, RAW, put_record, put_varint
from tests.fuzz_tok import read_every_way

HEADER_ONE = Header(b"12345678", 16000, 1, 320, (1024, 1024, 300), num_samples=6400)


def file_of(header, codes, frames_per_chunk=5, **options):
    file = io.BytesIO()
    with TokWriter(file, header, frames_per_chunk=frames_per_chunk, **options) as writer:
        writer.write(codes)
    return file.getvalue()


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(1).integers(0, 300, (3, 20))


def read(data, errors="skip"):
    reader = TokReader(io.BytesIO(data), errors=errors)
    return reader, list(reader)


def frames_of(pieces):
    return sum(piece.frames if isinstance(piece, Gap) else piece.shape[1] for piece in pieces)


def check_kept(pieces, codes):
    """Every piece lies where its frames belong; returns how many frames were kept."""
    at = kept = 0
    for piece in pieces:
        if isinstance(piece, Gap):
            assert piece.start == at
            at += piece.frames
        else:
            np.testing.assert_array_equal(piece, codes[:, at : at + piece.shape[1]])
            at += piece.shape[1]
            kept += piece.shape[1]
    return kept


def test_cut_at_any_byte(codes):
    data = file_of(HEADER_ONE, codes)
    header_size = len(HEADER_ONE.to_bytes())
    chunk = (
        len(data) - header_size
    ) // 4 - 3  # a little less than a chunk, whose length varies with its numbers
    for size in range(len(data)):
        with pytest.raises(TokError):
            read(data[:size], "strict")
        if size < header_size:
            with pytest.raises(TokError):
                read(data[:size])
            continue
        reader, pieces = read(data[:size])
        assert reader.end is None
        assert not any(isinstance(piece, Gap) for piece in pieces)
        assert check_kept(pieces, codes) >= (size - header_size) // (chunk + 12) * 5
        assert reader.num_samples <= 320 * (frames_of(pieces) + 1)


def test_one_flipped_byte_anywhere_costs_at_most_one_chunk(codes):
    data = file_of(HEADER_ONE, codes)
    for at in range(len(data)):
        for change in (1, 0x80, 0xFF, 0x5A):
            hurt = data[:at] + bytes((data[at] ^ change,)) + data[at + 1 :]
            with pytest.raises(TokError):
                read(hurt, "strict")
            reader, pieces = read(hurt)
            assert reader.header == HEADER_ONE
            assert check_kept(pieces, codes) >= 15
            assert frames_of(pieces) == 20 or (reader.end is None and frames_of(pieces) >= 15)


def test_one_flipped_byte_of_a_long_header(codes):
    header = replace(HEADER_ONE, codebook_sizes=tuple(range(300, 400)), num_samples=None)
    data = file_of(header, np.arange(100)[:, None])
    size = len(header.to_bytes())
    for at in (*range(9), *range(9, size, 11), *range(size - 5, size)):
        reader, pieces = read(data[:at] + bytes((data[at] ^ 0x41,)) + data[at + 1 :])
        assert reader.header == header
        assert frames_of(pieces) == 1


def test_a_gap_is_told_with_its_frames(codes):
    data = file_of(HEADER_ONE, codes)
    hurt = bytearray(data)
    hurt[len(HEADER_ONE.to_bytes()) + 30] ^= (
        1  # in the first chunk, which has 29 bits * 5 = 19 bytes and 10 more
    )
    hurt[-20] ^= 1  # in the last chunk
    _, pieces = read(bytes(hurt))
    assert [(piece.start, piece.frames) for piece in pieces if isinstance(piece, Gap)] == [(5, 5), (15, 5)]


def test_bytes_between_chunks_are_passed_over(codes):
    data = file_of(HEADER_ONE, codes)
    at = data.index(b"\xf5\xa0", len(HEADER_ONE.to_bytes()) + 2)
    noisy = data[:at] + b"\xf5\xa0\x10 \xf5 noise \xf5\xa0" + data[at:]
    with pytest.raises(TokError, match=r"byte \d+"):
        read(noisy, "strict")
    assert check_kept(read(noisy)[1], codes) == 20


def test_newer_version_is_refused_with_a_sentence(codes):
    data = bytearray(file_of(HEADER_ONE, codes))
    data[4] = 2
    data[6:8] = b"??"
    for errors in ("strict", "skip"):
        with pytest.raises(
            TokError, match=r"has \.tok version 2, this program reads 1: update it \(at byte 4\)"
        ):
            read(bytes(data), errors)


@pytest.mark.parametrize(
    "data", [b"", b"\x89", b"RIFF\0\0\0\0WAVE", b"\x89TOK", b"\x89TOK\1\xff\xff\xff", bytes(999)]
)
def test_not_a_tok_file(data):
    for errors in ("strict", "skip"):
        with pytest.raises(TokError):
            read(data, errors)


def test_long_file_without_its_start_is_read_by_the_copy_of_the_header(tmp_path):
    codes = np.random.default_rng(2).integers(0, 300, (3, 200))
    header = Header(b"12345678", 16000, 1, 320, (1024, 1024, 300))
    file = io.BytesIO()
    with TokWriter(file, header, frames_per_chunk=5) as writer:
        writer.write(codes)
        writer.num_samples = 63_999
    data = file.getvalue()
    hurt = b"Z" * 40 + data[40:]
    reader, pieces = read(hurt)
    assert reader.header.codebook_sizes == header.codebook_sizes
    assert reader.num_samples == 63_999
    assert check_kept(pieces, codes) == 195
    (tmp_path / "a.tok").write_bytes(hurt)
    with open(tmp_path / "a.tok", "rb") as opened:
        read_end, write_end = os.pipe()
        with os.fdopen(write_end, "wb") as sink:
            sink.write(opened.read())
    with os.fdopen(read_end, "rb") as pipe:  # what came before the copy is gone from a pipe
        assert [piece.frames for piece in TokReader(pipe, errors="skip")] == [200]
    found = repair(tmp_path / "a.tok", tmp_path / "a.tok")
    assert found.frames == 195
    assert found.lost_frames == 5
    with open(tmp_path / "a.tok", "rb") as opened:
        reader = TokReader(opened)
        assert check_kept(list(reader), codes) == 195
        assert reader.num_samples == 63_999
    with pytest.raises(TokError, match="frames 0 to 5 are lost"):
        read_tok(tmp_path / "a.tok")


def test_repair_of_a_cut_file_keeps_whole_chunks(tmp_path, codes):
    data = file_of(HEADER_ONE, codes)
    (tmp_path / "cut.tok").write_bytes(data[:-20])
    found = repair(tmp_path / "cut.tok", tmp_path / "whole.tok")
    assert (found.frames, found.gaps, found.had_end) == (15, (), False)
    header, kept = read_tok(tmp_path / "whole.tok")
    assert header.num_samples is None
    np.testing.assert_array_equal(kept, codes[:, :15])


def test_repair_of_a_whole_file_changes_no_code(tmp_path, codes):
    write_tok(tmp_path / "a.tok", HEADER_ONE, codes, frames_per_chunk=7)
    found = repair(tmp_path / "a.tok", tmp_path / "b.tok")
    assert (found.frames, found.gaps, found.had_end) == (20, (), True)
    header, kept = read_tok(tmp_path / "b.tok")
    assert header == HEADER_ONE
    np.testing.assert_array_equal(kept, codes)


def test_killed_writer_leaves_a_file_that_reads_to_its_last_whole_chunk(tmp_path):
    script = """
import sys
import numpy as np
from codec.bitstream import Header, TokWriter
with open(sys.argv[1], "wb") as file:
    writer = TokWriter(file, Header(b"12345678", 16000, 1, 320, (1024,) * 12), frames_per_chunk=5)
    writer.write(np.arange(12 * 23).reshape(12, 23))
    print("written", flush=True)
    sys.stdin.read()
"""
    path = tmp_path / "killed.tok"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
    with open(path, "rb") as file:
        pieces = list(TokReader(file, errors="skip"))
    assert check_kept(pieces, np.arange(12 * 23).reshape(12, 23)) == 20


def survive(data):
    """Reads every way there is; anything but a TokError comes through."""
    for errors in ("strict", "skip"):
        try:
            reader = TokReader(io.BytesIO(data), errors=errors)
        except TokError:
            continue
        reader.find_end()
        for pieces in (reader.seek_frames(7, 9), iter(reader)):
            try:
                for piece in pieces:
                    if not isinstance(piece, Gap):
                        assert (piece >= 0).all()
                        assert (piece.max(axis=1) < reader.header.codebook_sizes).all()
            except TokError:
                pass


def test_ten_thousand_mutated_files():
    rng = random.Random(3)
    codes = np.random.default_rng(3).integers(0, 300, (3, 40))
    originals = [
        file_of(HEADER_ONE, codes[:, :20]),
        file_of(Header(b"12345678", 44100, 2, 320, (300, 300), None, 16000, "split"), codes[:2], 9),
    ]
    for _ in range(10_000):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            if not data:
                break
            at = rng.randrange(len(data))
            kind = rng.randrange(5)
            if kind == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                data[at] = rng.choice((0, 0x7F, 0x80, 0xFF, 0xF5, 0xA0))
            elif kind == 2:
                del data[at : at + rng.randint(1, 30)]
            elif kind == 3:
                data[at:at] = data[rng.randrange(len(data)) :][: rng.randint(1, 40)]
            else:
                del data[max(1, at) :]
        survive(bytes(data))


def with_crc(block):
    return block + zlib.crc32(block).to_bytes(4, "little")


def hostile():
    """Files whose checksums are all right and whose numbers are not."""
    start = HEADER_ONE.to_bytes()
    huge = put_varint((1 << 63) - 1)
    yield "frames claimed, no payload", start + put_record(RAW, b"\0" + huge)
    yield "frame count of zero", start + put_record(RAW, b"\0\0")
    yield "cut inside a number", start + put_record(RAW, b"\x80")
    yield "number without an end", start + put_record(RAW, b"\x80" * 40)
    yield "code outside its codebook", start + put_record(RAW, b"\0\1" + b"\xff" * 4)
    yield "chunk far away", start + put_record(RAW, put_varint(MAX_GAP + 1) + b"\1" + bytes(4))
    yield "end far away", start + put_record(END, huge * 3)
    yield "unknown kind that matters", start + put_record(7, b"")
    yield "copy of a header that is none", b"?" * 40 + put_record(HEADER, b"\x89TOK\1\xff\xff")
    one = start + put_record(RAW, b"\0\1" + bytes(4))
    yield "header and end disagree", one + put_record(END, b"\1\2\0")
    one = replace(HEADER_ONE, num_samples=None).to_bytes() + one[len(start) :]
    yield "more samples than frames", one + put_record(END, b"\1" + huge + b"\0")
    for body in (
        b"",
        b"\0" * 9,
        b"\7" + b"12345678" + b"\1" * 9,
        b"\0" + b"12345678" + b"\1\1\0\1\1" + huge + b"\1\4\0",
        b"\0" + b"12345678" + b"\1\1\0\1\1\2" + huge + b"\4\0",
        b"\0" + b"12345678" + b"\1\1\0\1\1\1\1" + huge + b"\0",
        b"\0" + b"12345678" + huge + b"\1\0\1\1\1\1\4\0",
        b"\0" + b"12345678" + b"\1\1\0\1\1\1\1\0\0",
    ):
        yield "header that makes no sense", with_crc(b"\x89TOK\1" + put_varint(len(body)) + body)


@pytest.mark.parametrize(
    ("name", "data"), list(hostile()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_right_checksums_around_wrong_numbers(name, data):
    with pytest.raises(TokError):
        read(data, "strict")
    survive(data)


def test_index_that_lies_is_not_believed(codes):
    data = file_of(HEADER_ONE, codes)
    data = data[: data.rindex(bytes((0xF5, 0xA0 | END)))]
    huge = put_varint((1 << 63) - 1)
    for body in (b"", b"\1\0" + huge, huge + bytes(99), b"\2\x0f" + huge + huge * 2):
        index = put_record(INDEX, body)
        for distance in (len(index), len(index) + 1, 1, 1 << 62):
            end = put_record(END, put_varint(20) + b"\0" + put_varint(distance))
            file = io.BytesIO(data + index + end)
            np.testing.assert_array_equal(np.concatenate(list(TokReader(file)), axis=1), codes)
            file.seek(0)
            part = list(TokReader(file).seek_frames(12, 3))
            np.testing.assert_array_equal(np.concatenate(part, axis=1), codes[:, 12:15])


def test_later_fields_and_records_may_be_passed_over(codes):
    body = HEADER_ONE.to_bytes()[6:-4] + b"a field of tomorrow"
    data = with_crc(b"\x89TOK\1" + put_varint(len(body)) + body)
    data += put_record(9, b"a record of tomorrow") + file_of(HEADER_ONE, codes)[len(HEADER_ONE.to_bytes()) :]
    reader, pieces = read(data, "strict")
    assert reader.header == HEADER_ONE
    assert check_kept(pieces, codes) == 20


def test_memory_of_the_largest_chunk_is_bounded():
    for sizes, frames in (((2,), 1 << 19), ((65536,) * 4, (1 << 17) - 4), ((1 << 32,), (1 << 18) - 8)):
        header = Header(b"12345678", 16000, 1, 320, sizes)
        data = file_of(header, np.zeros((len(sizes), frames), np.int64), frames)
        tracemalloc.start()
        assert frames_of(read(data, "strict")[1]) == frames
        assert tracemalloc.get_traced_memory()[1] < 64e6
        tracemalloc.stop()


def test_file_of_false_chunks_costs_no_square(monkeypatch):
    """Nested heads, each with a right check byte and a claim of a quarter of a megabyte."""
    false = put_record(RAW, bytes(MAX_BODY // 4))[:6]
    data = HEADER_ONE.to_bytes() + false * 150_000
    work = 0

    def counted(record, intact=source_module.intact):
        nonlocal work
        work += len(record)
        return intact(record)

    monkeypatch.setattr(source_module, "intact", counted)
    assert read(data)[1] == []
    assert len(data) < work < 20 * len(data)


def test_split_channels_with_unlike_books_are_refused():
    """A file that the fuzzer found after 10^5 others: the tables fitted the first channel's codebooks only."""
    read_every_way(
        bytes.fromhex(
            "89544f4b0119013132333435363738c4d8f50204807dc0020402ac0202070072d91c43f5a1117300048f54a35500dabc4b9cd07b"
            "c8b941ef16c98359f5a1117304048f54a355036ea470738d82a0bba28fd739e03ef5a5033f080000c2890003"
        )
    )
