"""What the bytes of a sound file say about its length: a declared length may be an estimate or a placeholder."""

import io
import os
import struct
from dataclasses import dataclass
from typing import IO

# first bytes of the files that libsndfile reads; FFmpeg's libraries read the others
_SNDFILE = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b".snd", b"dns.", b"caff", b"fLaC", b"OggS", b"NIST")
_OTHERS = (
    b"ID3",
    b"#!AMR",
    b"\x30\x26\xb2\x75",
    b"\x1a\x45\xdf\xa3",
    b"wvpk",
    b"TTA1",
    b"MAC ",
    b"Crea",
    b"\x89TOK",
)
SNIFF_BYTES = 4096
PLACEHOLDER = 0x7FFF0000  # a WAV's size from here on says that its writer did not know the end
_MISCOUNTED = (
    0x31,
    0x50,
    0x55,
)  # codings in WAV whose samples libsndfile miscounts: GSM, MPEG layers I to III
_MOST_CHUNKS = 1000  # of a WAV before its samples
_LONGEST_KEPT = 1 << 16  # bytes of a chunk that decoders need
_LONGEST_DATA = 0xFFFF0000  # bytes of samples that a WAV header can tell


def may_be_frames(start: bytes) -> bool:
    """Whether MPEG audio, ADTS or AC-3 may begin with these bytes; `is_sound_file` then wants more of them."""
    return start[:2] == b"\x0b\x77" or (len(start) >= 2 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0)


def is_sound_file(start: bytes) -> bool:
    """Whether these first bytes are those of a sound file (or of a .tok), and not bare samples."""
    if may_be_frames(start):  # so may samples: a second frame of the same kind must follow
        at = start.find(start[:2], 24)
        while at >= 0 and start[0] == 0xFF and start[at + 2 : at + 3] and (start[at + 2] ^ start[2]) & 0x0C:
            at = start.find(start[:2], at + 1)
        return at >= 0
    return start.startswith(_SNDFILE + _OTHERS) or start[4:8] == b"ftyp"


class View(io.RawIOBase):
    """A part of a seekable file as a file of its own, behind some bytes that are not in it.

    Args:
        file: read at its own position, which the view moves; stays open.
        offset: first byte of the part.
        size: bytes of the part; to the end by default.
        head: bytes that come before it.
    """

    def __init__(self, file: IO[bytes], offset: int = 0, size: int | None = None, head: bytes = b"") -> None:
        self._file, self._offset, self._head, self._at = file, offset - len(head), head, 0
        self.size = (file.seek(0, os.SEEK_END) - offset if size is None else size) + len(head)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def peek(self, size: int) -> bytes:
        """The first bytes."""
        self.seek(0)
        return self.read(size) or b""

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._head[self._at : self._at + len(buffer)]
        if not data and self._at < self.size:
            self._file.seek(self._offset + self._at)
            data = self._file.read(min(len(buffer), self.size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


@dataclass(slots=True)
class Facts:
    """What is known of a sound file before it is decoded.

    Attributes:
        start: its first byte, after tags and whatever `head` replaces.
        size: bytes that belong to it; None for the rest of the file.
        head: what its header should have been, so that all samples are read and nothing else.
        sndfile: whether libsndfile gives every sample of it; else FFmpeg's libraries have to.
        ffmpeg: whether these may try where libsndfile refuses.
        joined: byte where a second recording begins that no decoder would reach, if there is one.
        cut: share of the declared bytes that is there, where some are missing.
        last_page: in Ogg the last sample before the last page, where libsndfile seeks wrongly.
        last_sample: in Ogg the sample after the last one, counted from the beginning of the broadcast; None elsewhere.
        lost_pages: of an Ogg stream, between those that are there.
        counted: MPEG frames that an MP3 says that it has; 0 if it does not.
    """

    start: int = 0
    size: int | None = None
    head: bytes = b""
    sndfile: bool = False
    ffmpeg: bool = True
    joined: int | None = None
    cut: float | None = None
    last_page: int = 0
    last_sample: int | None = None
    lost_pages: int = 0
    counted: int = 0


def examine(file: IO[bytes]) -> Facts:
    """Looks at tags, chunks, pages and the last frame; cheap, but for Ogg, whose pages are walked through."""
    facts = Facts()
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10 and max(head[6:]) < 0x80:
        length = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        facts.start += 10 + length + (10 if head[5] & 0x10 else 0)
        file.seek(facts.start)
    file.seek(facts.start)
    head = file.read(SNIFF_BYTES)
    facts.sndfile = head.startswith(_SNDFILE)
    facts.ffmpeg = not head.startswith((b"RIFX", b"riff"))
    at = max(head.find(b"Xing", 0, -12), head.find(b"Info", 0, -12))
    if at >= 0 and head[at + 7] & 1:
        facts.counted = int.from_bytes(head[at + 8 : at + 12], "big")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        _riff(file, facts, size)
    elif head[:4] == b"fLaC" and len(head) >= 42:
        _flac(file, facts, head, size)
    elif head[:4] == b"OggS":
        _ogg(file, facts)
    return facts


def _riff(file: IO[bytes], facts: Facts, end: int) -> None:
    """Chunk after chunk, up to the samples and what follows them; all others than these are left out."""
    at, data64, kept = facts.start + 12, None, b""
    facts.ffmpeg = False  # which trusts the sizes of broken chunks with its memory
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data":
            break
        if kind in (b"fmt ", b"fact", b"ds64"):
            body = file.read(min(size, _LONGEST_KEPT))
            if kind == b"ds64" and len(body) >= 16:
                data64 = struct.unpack("<Q", body[8:16])[0]
            elif kind != b"ds64":
                kept += kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
            if kind == b"fmt " and struct.unpack("<H", body[:2].ljust(2))[0] in _MISCOUNTED:
                facts.sndfile = False  # libsndfile believes what the header declares
        at += 8 + size + size % 2
    else:
        return
    begin = at + 8
    declared, there = size if data64 is None or 0 < size < 0xFFFFFFFF else data64, end - begin
    if declared < there and (declared or _ends_in_chunks(file, begin, end)):
        file.seek(begin + declared + declared % 2)
        if file.read(4) in (b"RIFF", b"RF64"):
            facts.joined = begin + declared + declared % 2
        there = declared
    elif there < declared and (data64 is not None or declared < PLACEHOLDER):
        facts.cut = there / declared
    facts.ffmpeg = True
    if there <= _LONGEST_DATA:
        # where the recorder died before it could fill in the size, all that is there belongs to it
        body = kept + b"data" + struct.pack("<I", there)
        facts.head = b"RIFF" + struct.pack("<I", 4 + len(body) + there) + b"WAVE" + body
        facts.start, facts.size = begin, there


def _ends_in_chunks(file: IO[bytes], at: int, end: int) -> bool:
    """Whether chunks, and no samples, fill the file from here to its end."""
    while at + 8 <= end:
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        if not kind.isascii():
            return False
        at += 8 + size + size % 2
    return at in (end, end + 1)


def _flac(file: IO[bytes], facts: Facts, head: bytes, end: int) -> None:
    """Has the declared number of samples replaced by "unknown" where the last frame lies beyond it."""
    block, largest = int.from_bytes(head[8:10], "big"), int.from_bytes(head[15:18], "big")
    declared = int.from_bytes(head[21:26], "big") & 0xFFFFFFFFF
    file.seek(max(facts.start, end - max(largest, 1 << 16) - 256))
    tail = file.read()
    at = len(tail)
    while declared and (at := tail.rfind(b"\xff", 0, at)) >= 0:
        last = _flac_frame_end(tail[at : at + 16], block)
        if last is not None:
            if last > declared:
                facts.head = head[:21] + bytes([head[21] & 0xF0, 0, 0, 0, 0])
                facts.start += len(facts.head)
            return


def _flac_frame_end(head: bytes, block: int) -> int | None:
    """The sample after the frame whose header this is (RFC 9639, 9.1); None if it is no header."""
    if len(head) < 16 or head[1] not in (0xF8, 0xF9) or head[2] < 0x10 or head[3] & 1:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the number is coded like UTF-8
    if ones in (1, 8) or head[4] == 0xFF:
        return None
    at = 5 + max(0, ones - 1)
    number = head[4] & (0x7F >> ones)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    code = head[2] >> 4
    if code in (6, 7):
        length = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        length = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    check = 0
    for byte in head[:at]:
        check ^= byte
        for _ in range(8):
            check = check << 1 ^ (0x107 if check & 0x80 else 0)
    if check != head[at]:
        return None
    return (number if head[1] & 1 else number * block) + length


def _ogg(file: IO[bytes], facts: Facts) -> None:
    """Page after page: a second stream after the first one, and where the last page begins."""
    at, started, serial, magic = facts.start, False, b"", b""
    due: int | None = None  # number of the next page
    ends: list[int] = []  # of the last two pages, in samples
    while True:
        file.seek(at)
        page = file.read(27 + 255)
        if not page:
            break
        segments = page[26] if len(page) > 26 else 0
        if page[:4] != b"OggS" or len(page) < 27 + segments:
            facts.sndfile = False  # damage or a cut: FFmpeg's libraries find the next page
            return
        body = at + 27 + segments
        if page[5] & 2:  # begins a stream
            file.seek(body)
            begins = file.read(16)
            due = None
            if started:
                serial = page[14:18]
                facts.sndfile = False  # libsndfile reads the first of chained streams only
                if begins[:10] != magic[:10] or (begins[:16] != magic[:16] and magic[:7] == b"\x01vorbis"):
                    facts.joined = at  # of another rate or other channels
                    return
            elif not serial:
                serial, magic = page[14:18], begins
                facts.sndfile = magic.startswith((b"OpusHead", b"\x01vorbis"))
        else:
            started = True
            granule = int.from_bytes(page[6:14], "little", signed=True)
            if page[14:18] == serial:
                number = int.from_bytes(page[18:22], "little")
                if due is not None and number != due:
                    facts.sndfile = False
                    # behind the headers (whose samples are 0) a broadcast begins wherever it was
                    facts.lost_pages += max(1, number - due) if any(ends) else 0
                due = number + 1
                if granule >= 0:
                    ends = [*ends[-1:], granule]
        at = body + sum(page[27 : 27 + segments])
    skipped = int.from_bytes(magic[10:12], "little") if magic[:8] == b"OpusHead" else 0
    if len(ends) == 2:
        facts.last_page = max(0, ends[0] - skipped - 1)
    facts.last_sample = ends[-1] - skipped if ends else None
