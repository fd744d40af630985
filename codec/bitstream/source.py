"""From the bytes of any binary file to whole records, and past damage to the next whole one."""

from collections.abc import Iterator
from typing import BinaryIO

from codec.bitstream.records import IGNORABLE, KNOWN, MIN_RECORD, SYNC, get_head, intact
from codec.errors import TokError

BLOCK = 16384
CHEAP_WASTE = 1 << 22  # bytes of false records that are checked in full before they are passed over whole


class Source:
    """Buffered input: never much more in memory than one record.

    Attributes:
        position: of the first byte of ``buffer``, counted from where the .tok begins.
    """

    def __init__(self, file: BinaryIO, position: int = 0) -> None:
        self.position = position
        self.buffer = bytearray()
        # read1 returns what a pipe holds instead of waiting for a full block: a live stream needs that
        self._read1 = getattr(file, "read1", None)
        self._read = file.read

    def fill(self, size: int) -> int:
        """Reads until there are ``size`` bytes or the file ends; returns how many, at most ``size``."""
        while len(self.buffer) < size:
            data = self._read1(BLOCK) if self._read1 else self._read(size - len(self.buffer))
            if data is None:
                raise BlockingIOError("the input of TokReader must be a blocking file")
            if not data:
                break
            self.buffer += data
        return min(size, len(self.buffer))

    def take(self, size: int) -> bytes:
        """Removes the first ``size`` bytes from the buffer and returns them."""
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        self.position += size
        return data

    def to_sync(self) -> None:
        """Moves forward to the next sync mark, or to the end of the file."""
        while self.fill(MIN_RECORD) >= 2:
            found = SYNC.search(self.buffer)
            if found:
                self.take(found.start())
                return
            self.take(len(self.buffer) - 1)  # the last byte may be the first half of a mark
        self.take(len(self.buffer))


def records(source: Source, skip: bool) -> Iterator[tuple[int, bytes, int]]:
    """Yields (kind, body, byte offset) of every whole record of a known kind.

    Args:
        source: standing at the start of a record.
        skip: pass over damage to the next whole record, instead of raising.

    Raises:
        TokError: damage, a cut inside a record, or a kind of record that must not be ignored.
    """
    budget = CHEAP_WASTE
    while source.fill(MIN_RECORD):
        offset = source.position
        head = get_head(source.buffer) if len(source.buffer) >= MIN_RECORD else None
        whole = head is not None and source.fill(head.total) == head.total
        if head and whole and intact(memoryview(source.buffer)[: head.total]):
            record = source.take(head.total)
            if head.kind in KNOWN:
                yield head.kind, record[head.size : -4], offset
            elif head.kind < IGNORABLE:
                raise TokError(f"this program does not know records of kind {head.kind}: update it", offset)
            continue
        if not skip:
            if head and whole:
                raise TokError("a chunk is damaged: its CRC does not fit", offset)
            if head or len(source.buffer) < MIN_RECORD:
                raise TokError("the file is cut inside a chunk", offset)
            raise TokError("there should be a chunk, and there is none: the file is damaged", offset)
        if head and whole:
            budget -= head.total
        # A false record may hold a true one, so look inside; but a file made of false ones must not cost the
        # square of its length: once they have cost more than the file itself they are passed over whole.
        step = head.total if head and whole and budget < -offset else 1
        source.take(step)
        source.to_sync()
