"""Entropy coding of codes with integers only: adaptive frequency tables, on a model's prior or none, and a range coder.

Every number that decides a table is a whole number below 2 ** 63, so the bytes decode alike on every machine.
The range coder is that of G. N. N. Martin, "Range encoding" (1979), with 32-bit words and 24-bit tables.
"""

import math

import numpy as np
import numpy.typing as npt

from codec.bitstream.pack import Codes
from codec.bitstream.prior import Prior, State
from codec.errors import TokError

LARGEST_BOOK = 4096
ID_BYTES = 4
LEAST_BITS = 0.25  # per code, so that a few hostile bytes cannot keep a reader busy for hours
_PRECISION = 24
_BLOCK = 256  # frames whose tables are in memory at once
_EQUAL = 1024  # weight of a code without a prior, and of each time it was seen

Ints = npt.NDArray[np.int64]


class TablesError(TokError):
    """The codes cannot be read without the entropy tables of the model that they came from."""


class EntropyCoder:
    """The codes of one chunk to bytes and back.

    Args:
        sizes: V of every row of the codes.
        streams: rows ``k * streams + s`` belong to stream s, which is coded as if it were alone.
        prior: what the model's codes look like; None: learn it anew in each chunk.

    Raises:
        TokError: the prior is for other codebooks.
    """

    def __init__(self, sizes: tuple[int, ...], streams: int = 1, prior: Prior | None = None) -> None:
        if prior and not prior.fits(sizes[::streams]):
            raise TokError(
                f"the entropy tables are for codebooks of {prior.sizes}, the codes have {sizes[::streams]}"
            )
        self.sizes = sizes
        self.streams = streams
        self.prior = prior
        self.usable = max(sizes) <= LARGEST_BOOK

    def encode(self, codes: npt.NDArray[np.integer]) -> bytes:
        """The payload of a chunk of codes (K, t)."""
        rows, frames = codes.shape
        spans = np.empty((frames, rows, 2), np.int64)
        for stream in range(self.streams):
            own = codes[stream :: self.streams].astype(np.int64)
            state: State | None = None
            if self.prior:
                state = np.zeros((frames, self.prior.dim))
                state[1:] = self.prior.start(own[:, :-1])
            for codebook, row in enumerate(own):
                at = codebook * self.streams + stream
                spans[:, at] = _spans(self.prior, codebook, state, row, self.sizes[at])
                if self.prior and state is not None:
                    state = state + self.prior.step(codebook, row)
        body = _range_encode(spans.reshape(-1, 2).tolist())
        least = math.ceil(rows * frames * LEAST_BITS / 8)
        return (self.prior.id if self.prior else 0).to_bytes(ID_BYTES, "little") + body.ljust(least, b"\0")

    def decode(self, payload: bytes, frames: int, offset: int) -> Codes:
        """The inverse of `encode`; ``offset`` is only for the error's sentence.

        Raises:
            TokError: no writer makes this payload.
            TablesError: the prior that it was made with is missing.
        """
        rows = len(self.sizes)
        if not self.usable or len(payload) < ID_BYTES + rows * frames * LEAST_BITS / 8:
            raise TokError(
                f"{frames} frames cannot be an entropy-coded payload of {len(payload)} bytes", offset
            )
        wanted = int.from_bytes(payload[:ID_BYTES], "little")
        prior = self.prior if wanted else None
        if wanted and (prior is None or prior.id != wanted):
            raise TablesError(f"the codes need the entropy tables {wanted:08x} of their model", offset)
        decoder = _RangeDecoder(payload[ID_BYTES:], offset)
        codes = np.empty((rows, frames), np.int64)
        counts = [np.zeros(size, np.int64) for size in self.sizes]
        for t in range(frames):
            if prior:
                start = np.zeros((self.streams, prior.dim))
                if t:
                    start += prior.start(codes[:, t - 1].reshape(-1, self.streams))
                states = list(start[:, None])
            for row, count in enumerate(counts):
                codebook, stream = divmod(row, self.streams)
                weights = prior.weights(codebook, states[stream])[0] if prior else None
                code = codes[row, t] = decoder.next(_table(weights, count))
                count[code] += 1
                if prior:
                    states[stream] = states[stream] + prior.step(codebook, code)
        return codes


def _table(weights: Ints | None, counts: Ints) -> Ints:
    """Upper ends (V,) of the codes' shares of 2 ** 24, every share at least 1."""
    if weights is None:
        mixed = np.cumsum(_EQUAL * (counts + 1))
    else:
        # a code's being seen weighs as much as 1 / 4096 of the prior: it matters only where the prior is wrong
        mixed = np.cumsum(weights + (int(weights.sum()) >> 12) * counts)
    size = len(counts)
    return mixed * ((1 << _PRECISION) - size) // mixed[-1] + np.arange(1, size + 1)


def _spans(prior: Prior | None, codebook: int, state: State | None, row: Ints, size: int) -> Ints:
    """(t, 2): lower end and share of each code (t,) of a row, by the tables that `_table` makes for a decoder."""
    spans = np.empty((len(row), 2), np.int64)
    counts = np.zeros(size, np.int64)
    seen = np.empty((len(row), 2), np.int64)  # how many smaller codes, and how often this code, came before
    for t, code in enumerate(row.tolist()):
        seen[t] = counts[:code].sum(), counts[code]
        counts[code] += 1
    for start in range(0, len(row), _BLOCK):
        stop = min(start + _BLOCK, len(row))
        codes = row[start:stop, None]
        less, same = seen[start:stop].T
        if prior is None or state is None:
            unit = np.full(stop - start, _EQUAL)
            below, own, total = _EQUAL * codes[:, 0], unit, unit * size
        else:
            weights = prior.weights(codebook, state[start:stop])
            upper = np.cumsum(weights, axis=1)
            own = np.take_along_axis(weights, codes, axis=1)[:, 0]
            below = np.take_along_axis(upper, codes, axis=1)[:, 0] - own
            total = upper[:, -1]
            unit = total >> 12
        below, own, total = below + unit * less, own + unit * same, total + unit * np.arange(start, stop)
        scale, codes = (1 << _PRECISION) - size, codes[:, 0]
        low = below * scale // total + codes
        high = (below + own) * scale // total + codes + 1
        spans[start:stop] = np.stack([low, high - low], axis=1)
    return spans


def _range_encode(spans: list[list[int]]) -> bytes:
    """Bytes of symbols given as (lower end, share) of 2 ** 24; trailing zero bytes are left out."""
    low, width = 0, (1 << 64) - 1
    words: list[int] = []
    for start, share in spans:
        width >>= _PRECISION
        low += width * start
        width *= share
        if low >> 64:
            _carry(words)
            low &= (1 << 64) - 1
        if width < 1 << 32:
            words.append(low >> 32)
            low = (low & 0xFFFFFFFF) << 32
            width <<= 32
    for zeros in range(56, -1, -8):  # the number inside the last interval that ends in the most zero bytes
        last = (low + (1 << zeros) - 1) >> zeros << zeros
        if last < low + width:
            break
    if last >> 64:
        _carry(words)
        last &= (1 << 64) - 1
    data = b"".join(word.to_bytes(4, "big") for word in [*words, last >> 32, last & 0xFFFFFFFF])
    return data.rstrip(b"\0")


def _carry(words: list[int]) -> None:
    """Adds one to the number that the words make up."""
    at = len(words) - 1
    while words[at] == 0xFFFFFFFF:
        words[at] = 0
        at -= 1
    words[at] += 1


class _RangeDecoder:
    """The inverse of `_range_encode`; zero bytes follow the data for ever."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._words = np.frombuffer(data + bytes(8 + -len(data) % 4), ">u4").tolist()
        self._words.reverse()
        self._offset = offset
        self._point = self._words.pop() << 32 | self._words.pop()
        self._width = (1 << 64) - 1

    def next(self, table: Ints) -> int:
        """The next code, whose share of 2 ** 24 ends at ``table[code]``."""
        width = self._width >> _PRECISION
        at = self._point // width
        if at >> _PRECISION:
            raise TokError("the entropy-coded bytes are not what a writer makes", self._offset)
        code = int(np.searchsorted(table, at, side="right"))
        low = int(table[code - 1]) if code else 0
        self._point -= width * low
        self._width = width * (int(table[code]) - low)
        if self._width < 1 << 32:
            self._width <<= 32
            self._point = self._point << 32 | (self._words.pop() if self._words else 0)
        return code
