"""The record around everything after the header: sync, kind, length, check, body, CRC-32."""

import re
import zlib
from dataclasses import dataclass

RAW, ENTROPY, LOST, HEADER, INDEX, END = KNOWN = range(6)
IGNORABLE = 8  # a reader passes over kinds from here on, and refuses unknown kinds below it
SYNC = re.compile(rb"\xf5[\xa0-\xaf]")
MAX_BODY = 1 << 20  # bytes; also what a reader may have to hold in memory
MAX_VARINT = 9  # bytes, 63 bits
MIN_RECORD = 8  # bytes: sync 2, length 1, check 1, CRC 4


@dataclass(frozen=True, slots=True)
class Head:
    """The checked head of a record: what it is and how long."""

    kind: int
    size: int  # bytes of the head
    body: int  # bytes of the body

    @property
    def total(self) -> int:
        """Bytes of the whole record."""
        return self.size + self.body + 4


def put_varint(value: int) -> bytes:
    """Little-endian base 128: seven bits a byte, the high bit set on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def get_varint(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """Reads one varint at ``at``; returns (value, position after it).

    Raises:
        IndexError: the data end inside the number, or it has more than nine bytes.
    """
    value = 0
    for i in range(MAX_VARINT):
        byte = data[at + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    raise IndexError("varint too long")


def put_record(kind: int, body: bytes) -> bytes:
    """One whole record. Its check byte guards the length: no reader waits for bytes that will not come."""
    head = bytes((0xF5, 0xA0 | kind)) + put_varint(len(body))
    record = head + bytes((zlib.crc32(head) & 0xFF,)) + body
    return record + zlib.crc32(record).to_bytes(4, "little")


def get_head(data: bytes | bytearray | memoryview, at: int = 0) -> Head | None:
    """The head of the record at ``at``, where there are `MIN_RECORD` bytes; None if it is none."""
    if data[at] != 0xF5 or data[at + 1] & 0xF0 != 0xA0:
        return None
    try:
        body, end = get_varint(data[at + 2 : at + 5], 0)
    except IndexError:
        return None
    size = 2 + end
    if body > MAX_BODY or zlib.crc32(data[at : at + size]) & 0xFF != data[at + size]:
        return None
    return Head(data[at + 1] & 0x0F, size + 1, body)


def intact(record: bytes | bytearray | memoryview) -> bool:
    """Whether the CRC-32 in the last four bytes of a record is that of the bytes before it."""
    return zlib.crc32(record[:-4]) == int.from_bytes(record[-4:], "little")
