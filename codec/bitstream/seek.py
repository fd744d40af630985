"""Finding a frame in a seekable .tok file without reading what lies before it."""

from bisect import bisect_right
from typing import BinaryIO

from codec.bitstream.chunk import End, parse_end, parse_span
from codec.bitstream.records import (
    END,
    ENTROPY,
    INDEX,
    LOST,
    MAX_BODY,
    MIN_RECORD,
    RAW,
    get_head,
    get_varint,
    intact,
    put_varint,
)
from codec.errors import TokError

END_LONGEST = 64  # bytes at the end of a file in which its end record is looked for
HEAD_LONGEST = 32  # bytes of a chunk that hold its head, first frame and frame count


def index_to_bytes(entries: list[tuple[int, int]]) -> bytes:
    """The body of an index record: entries (first frame, byte offset of its chunk) as steps between them."""
    body = bytearray(put_varint(len(entries)))
    frame = offset = 0
    for next_frame, next_offset in entries:
        body += put_varint(next_frame - frame) + put_varint(next_offset - offset)
        frame, offset = next_frame, next_offset
    return bytes(body)


def parse_index(body: bytes, before: int) -> list[tuple[int, int]]:
    """The inverse of `index_to_bytes`; no entries at all if it is cut or points to ``before`` or beyond."""
    entries = []
    try:
        count, at = get_varint(body, 0)
        frame = offset = 0
        for _ in range(min(count, MAX_BODY)):
            step, at = get_varint(body, at)
            frame += step
            step, at = get_varint(body, at)
            offset += step
            entries.append((frame, offset))
        if offset >= before:
            return []
    except IndexError:
        return []
    return entries


def find_end(file: BinaryIO, start: int) -> tuple[End, int] | None:
    """The end record at the end of the file and its offset from ``start``, or None where there is none."""
    size = file.seek(0, 2)
    begin = max(start, size - END_LONGEST)
    file.seek(begin)
    tail = file.read(END_LONGEST)
    for at in range(len(tail) - MIN_RECORD, -1, -1):
        head = get_head(tail, at)
        if head and head.kind == END and at + head.total == len(tail) and intact(tail[at:]):
            try:
                return parse_end(tail[at + head.size : -4], begin + at - start), begin + at - start
            except TokError:
                return None
    return None


def find_frame(file: BinaryIO, start: int, first_record: int, frame: int) -> tuple[int, int]:
    """Where to begin reading for ``frame``: (offset from ``start`` of a record, the frame that is due there).

    The index brings it near, the heads of the chunks bring it there; where they are damaged it stops before.
    """
    due, at = _nearest_entry(file, start, frame) or (0, first_record)
    while True:
        file.seek(start + at)
        data = file.read(HEAD_LONGEST)
        head = get_head(data) if len(data) >= MIN_RECORD else None
        if head is None or head.kind == END:
            return at, due
        if head.kind in (RAW, ENTROPY, LOST):
            try:
                span = parse_span(head.kind, data[head.size :], at)
            except TokError:
                return at, due
            if span.first != due or due + span.frames > frame:
                return at, due
            due += span.frames
        at += head.total


def _nearest_entry(file: BinaryIO, start: int, frame: int) -> tuple[int, int] | None:
    """The last index entry (first frame, offset) at or before ``frame``, if there is a whole index."""
    found = find_end(file, start)
    if found is None or not 0 < found[0].index_distance <= found[1]:
        return None
    end, at = found
    at -= end.index_distance
    file.seek(start + at)
    data = file.read(min(end.index_distance, MAX_BODY + MIN_RECORD))
    head = get_head(data) if len(data) >= MIN_RECORD else None
    if head is None or head.kind != INDEX or head.total != len(data) or not intact(data):
        return None
    entries = parse_index(data[head.size : -4], at)
    at = bisect_right(entries, frame, key=lambda entry: entry[0]) - 1
    return entries[at] if at >= 0 else None
