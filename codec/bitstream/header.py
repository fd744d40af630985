"""The head of a .tok file: which model, source and codebooks. One damaged byte in it can be put right."""

import zlib
from dataclasses import dataclass
from typing import Final

from codec.bitstream.pack import code_bits
from codec.bitstream.records import get_varint, intact, put_varint
from codec.errors import TokError

MAGIC: Final = b"\x89TOK"
VERSION: Final = 1
PREFIX: Final = 7  # bytes that tell the header's size: magic, version, up to two bytes of length
MAX_CODEBOOKS: Final = 1024
MAX_CODEBOOK_SIZE: Final = 1 << 32
MAX_BODY: Final = (1 << 14) - 1
LONGEST: Final = PREFIX + MAX_BODY + 4  # bytes of a header
CHANNEL_POLICIES: Final = ("mix", "split", "joint")
RESAMPLERS: Final = {0: "none", 1: "soxr HQ", 2: "soxr VHQ", 3: "sinc, Hann window", 4: "sinc, Kaiser window"}

# How one changed byte changes the CRC-32 right behind it, by the difference and by the difference's highest byte.
_MADE_BY: Final = {zlib.crc32(bytes((value,))) ^ zlib.crc32(b"\0"): value for value in range(256)}
_BY_TOP: Final = {difference >> 24: (difference, value) for difference, value in _MADE_BY.items()}


@dataclass(frozen=True, slots=True)
class Header:
    """What a listener must know before the first code.

    Attributes:
        fingerprint: the first 8 bytes of a hash of the model's weights and config.
        sample_rate: of the source, in Hz; decoding restores it.
        channels: of the source.
        hop: samples of the model per frame.
        codebook_sizes: V of every row of the codes, in stream order.
        num_samples: of the source, per channel; None while a stream is still being written.
        model_sample_rate: in Hz; 0 stands for the source's.
        channel_policy: how the source's channels reached the model. ``"mix"``: mixed down to one, or it had
            only one. ``"split"``: each coded on its own; row ``k * channels + c`` is codebook k of channel c.
            ``"joint"``: all at once, by a model of as many channels.
        resampler: what brought the source to the model's rate, a key of `RESAMPLERS`.

    Raises:
        TokError: a value that the file cannot hold.
    """

    fingerprint: bytes
    sample_rate: int
    channels: int
    hop: int
    codebook_sizes: tuple[int, ...]
    num_samples: int | None = None
    model_sample_rate: int = 0
    channel_policy: str = "mix"
    resampler: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", bytes(self.fingerprint))
        object.__setattr__(self, "codebook_sizes", tuple(int(size) for size in self.codebook_sizes))
        object.__setattr__(self, "model_sample_rate", int(self.model_sample_rate) or int(self.sample_rate))
        if len(self.fingerprint) != 8:
            raise TokError(f"a fingerprint has 8 bytes, not {len(self.fingerprint)}")
        for name, low, high in (
            ("sample_rate", 1, 1 << 31),
            ("model_sample_rate", 1, 1 << 31),
            ("channels", 1, 1 << 16),
            ("hop", 1, 1 << 31),
            ("resampler", 0, 255),
        ):
            if not low <= getattr(self, name) <= high:
                raise TokError(f"{name} must be from {low} to {high}, not {getattr(self, name)}")
        if self.num_samples is not None and not 0 <= self.num_samples < 1 << 62:
            raise TokError(f"num_samples must not be {self.num_samples}")
        if not 1 <= len(self.codebook_sizes) <= MAX_CODEBOOKS:
            raise TokError(f"there must be 1 to {MAX_CODEBOOKS} codebooks, not {len(self.codebook_sizes)}")
        for size in self.codebook_sizes:
            if not 2 <= size <= MAX_CODEBOOK_SIZE:
                raise TokError(f"a codebook has 2 to {MAX_CODEBOOK_SIZE} entries, not {size}")
        if self.channel_policy not in CHANNEL_POLICIES:
            raise TokError(f"channel_policy is one of {CHANNEL_POLICIES}, not {self.channel_policy!r}")
        if len(self.codebook_sizes) % self.streams:
            raise TokError(f"{self.streams} split channels cannot share {len(self.codebook_sizes)} codebooks")
        one = self.codebook_sizes[:: self.streams]
        if any(self.codebook_sizes[stream :: self.streams] != one for stream in range(1, self.streams)):
            raise TokError(f"split channels have the same codebooks, not {self.codebook_sizes} in turn")

    @property
    def streams(self) -> int:
        """Runs of the model whose codes are interleaved: the channels where they were split, else 1."""
        return self.channels if self.channel_policy == "split" else 1

    @property
    def bits_per_frame(self) -> int:
        """Bits of one frame of all rows, packed raw."""
        return sum(code_bits(self.codebook_sizes))

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.model_sample_rate / self.hop

    @property
    def bitrate(self) -> float:
        """Bits per second of the packed codes, the file's own bytes not counted."""
        return self.bits_per_frame * self.frame_rate

    def most_samples(self, frames: int) -> int:
        """The longest source, in samples, that so many frames can be; one frame is allowed for rounding."""
        return (frames + 1) * self.hop * self.sample_rate // self.model_sample_rate

    def to_bytes(self) -> bytes:
        """The header as it stands at the start of a file."""
        body = bytearray((CHANNEL_POLICIES.index(self.channel_policy),))
        body += self.fingerprint + put_varint(self.sample_rate) + put_varint(self.channels)
        body += bytes((self.resampler,))
        same_rate = self.model_sample_rate == self.sample_rate
        body += put_varint(0 if same_rate else self.model_sample_rate) + put_varint(self.hop)
        body += put_varint(len(self.codebook_sizes))
        at = 0
        while at < len(self.codebook_sizes):
            size, start = self.codebook_sizes[at], at
            while at < len(self.codebook_sizes) and self.codebook_sizes[at] == size:
                at += 1
            body += put_varint(at - start) + put_varint(size)
        body += put_varint(0 if self.num_samples is None else self.num_samples + 1)
        block = MAGIC + bytes((VERSION,)) + put_varint(len(body)) + body
        return block + zlib.crc32(block).to_bytes(4, "little")


def header_size(prefix: bytes | bytearray) -> int:
    """Bytes of the whole header whose first `PREFIX` bytes these are.

    Raises:
        TokError: not a .tok file, or one of a version that this program does not know.
    """
    if len(prefix) < PREFIX or prefix[:4] != MAGIC:
        raise TokError("this is not a .tok file: it does not begin with the bytes 89 54 4F 4B", 0)
    if prefix[4] != VERSION:
        raise TokError(f"the file has .tok version {prefix[4]}, this program reads {VERSION}: update it", 4)
    try:
        body, end = get_varint(prefix[5:PREFIX], 0)
    except IndexError:
        raise TokError(f"the header claims to be longer than {MAX_BODY} bytes", 5) from None
    return 5 + end + body + 4


def parse_header(block: bytes | bytearray) -> Header:
    """Reads the whole header block, `header_size` bytes.

    Raises:
        TokError: damaged (the CRC does not fit), or values that make no sense.
    """
    if not intact(block):
        raise TokError("the header is damaged: its CRC does not fit; `codec repair` may help", 0)
    try:
        _, at = get_varint(block, 5)
        return _fields(bytes(block[at:-4]))
    except IndexError:
        raise TokError("the header ends before its last field", len(block)) from None


def _fields(body: bytes) -> Header:
    """The fields of the header's body; bytes after the last one are from a later, compatible program."""
    if body[0] >= len(CHANNEL_POLICIES):
        raise TokError("the header asks for a feature that this program does not know: update it", 6)
    fingerprint, at = body[1:9], 9
    sample_rate, at = get_varint(body, at)
    channels, at = get_varint(body, at)
    resampler, at = body[at], at + 1
    model_sample_rate, at = get_varint(body, at)
    hop, at = get_varint(body, at)
    codebooks, at = get_varint(body, at)
    sizes: list[int] = []
    while len(sizes) < codebooks:
        count, at = get_varint(body, at)
        size, at = get_varint(body, at)
        if not 1 <= count <= min(codebooks, MAX_CODEBOOKS) - len(sizes):
            raise TokError(f"the header lists {codebooks} codebooks and then {len(sizes) + count}", 6)
        sizes += [size] * count
    samples, _ = get_varint(body, at)
    return Header(
        fingerprint,
        sample_rate,
        channels,
        hop,
        tuple(sizes),
        samples - 1 if samples else None,
        model_sample_rate,
        CHANNEL_POLICIES[body[0]],
        resampler,
    )


def correct(block: bytes) -> bytes | None:
    """Puts one damaged byte of a header right: the only change of one byte that makes its CRC fit.

    Args:
        block: the start of the file, at least as long as its header.

    Returns:
        The header block as it was written, or None where no such change fits.
    """
    if len(block) < PREFIX:
        return None
    start = MAGIC + bytes((VERSION,))
    wrong = [at for at in range(5) if block[at] != start[at]]
    if wrong:
        return _whole(start + block[5:]) if len(wrong) == 1 else None
    for at in (5, 6):  # with a damaged length the place of the CRC is unknown, so there is only trying
        for value in range(256 if block[5] & 0x80 or at == 5 else 0):
            found = _whole(block[:at] + bytes((value,)) + block[at + 1 :])
            if found:
                return found
    size = header_size(block)
    if size > len(block):
        return None
    block = block[:size]
    # CRC-32 is linear: the change of one byte shows the same difference whatever the other bytes are. So take the
    # difference back through the bytes, last first, until it is one that a single byte makes.
    wanted = zlib.crc32(block[:-4]) ^ int.from_bytes(block[-4:], "little")
    for at in range(size - 5, PREFIX - 2, -1):
        if wanted in _MADE_BY:
            return _whole(block[:at] + bytes((block[at] ^ _MADE_BY[wanted],)) + block[at + 1 :])
        difference, value = _BY_TOP[wanted >> 24]
        wanted = (wanted ^ difference) << 8 | value
    fixed = block[:-4] + zlib.crc32(block[:-4]).to_bytes(4, "little")
    return fixed if sum(a != b for a, b in zip(fixed, block, strict=True)) == 1 else None


def _whole(block: bytes) -> bytes | None:
    """The header block at the start of these bytes if its CRC fits, else None."""
    try:
        size = header_size(block)
    except TokError:
        return None
    return block[:size] if size <= len(block) and intact(block[:size]) else None
