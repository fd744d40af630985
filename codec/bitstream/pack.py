"""Codes to bits and back: ceil(log2 V) bits a code, frame after frame, codebook after codebook in a frame."""

from itertools import groupby

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


def code_bits(codebook_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Bits that one code of each codebook takes: ceil(log2 V)."""
    return tuple((size - 1).bit_length() for size in codebook_sizes)


def _runs(bits: tuple[int, ...]) -> list[tuple[int, int]]:
    """Neighbouring codebooks of the same width, as (width, how many): they move through numpy together."""
    return [(width, len(list(group))) for width, group in groupby(bits)]


def pack(codes: npt.NDArray[np.integer], bits: tuple[int, ...]) -> bytes:
    """Packs codes most significant bit first; the last byte is filled up with zero bits.

    Args:
        codes: (K, t) integers, row k below ``2 ** bits[k]``.
        bits: bits per code of each of the K codebooks, 1 to 32.
    """
    t = codes.shape[1]
    columns, row = [], 0
    for width, count in _runs(bits):
        word = 16 if width <= 16 else 32
        words = np.ascontiguousarray(codes[row : row + count].T, dtype=f">u{word // 8}")
        unpacked = np.unpackbits(words.view(np.uint8).reshape(t, count, word // 8), axis=2)
        columns.append(unpacked[:, :, word - width :].reshape(t, count * width))
        row += count
    return np.packbits(np.concatenate(columns, axis=1)).tobytes()


def unpack(payload: bytes, bits: tuple[int, ...], frames: int) -> Codes:
    """The inverse of `pack`: (K, frames) int64 from ``packed_size(bits, frames)`` bytes."""
    per_frame = sum(bits)
    stream = np.unpackbits(np.frombuffer(payload, np.uint8), count=frames * per_frame)
    flat = stream.reshape(frames, per_frame)
    codes = np.empty((len(bits), frames), np.int64)
    row = column = 0
    for width, count in _runs(bits):
        word = 16 if width <= 16 else 32
        padded = np.zeros((frames, count, word), np.uint8)
        padded[:, :, word - width :] = flat[:, column : column + count * width].reshape(frames, count, width)
        words = np.packbits(padded, axis=2).view(f">u{word // 8}")
        codes[row : row + count] = words.reshape(frames, count).T
        row, column = row + count, column + count * width
    return codes


def packed_size(bits: tuple[int, ...], frames: int) -> int:
    """Bytes that `pack` makes of that many frames."""
    return (frames * sum(bits) + 7) // 8
