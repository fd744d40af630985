"""Sizes of the packets in an Ogg file (RFC 3533), to tell what is coded sound and what is container."""

from __future__ import annotations

from codec.errors import CodecError


def packet_bytes(content: bytes) -> list[int]:
    """Bytes of each packet of an Ogg file with one stream.

    Raises:
        CodecError: not an Ogg file, or cut.
    """
    sizes, at, size = [], 0, 0
    while at < len(content):
        if content[at : at + 4] != b"OggS" or at + 27 > len(content):
            raise CodecError(f"not an Ogg page at byte {at}")
        laces = content[at + 27 : at + 27 + content[at + 26]]
        for lace in laces:
            size += lace
            if lace < 255:  # a shorter piece ends its packet
                sizes.append(size)
                size = 0
        at += 27 + len(laces) + sum(laces)
    if at != len(content) or size:
        raise CodecError("the Ogg file is cut")
    return sizes
