"""What a model's codes usually look like: an integer log-bilinear predictor of each code from the frame before it.

After Mnih and Hinton, "Three new graphical models for statistical language modelling" (2007), with whole numbers.
"""

import zlib

import numpy as np
import numpy.typing as npt

from codec.bitstream.pack import Codes
from codec.bitstream.records import get_varint, put_varint
from codec.errors import TokError

MAGIC = b"TOKP\x01"
# 2 ** (16 + i / 256), rounded: the weights of scores in 256ths of an octave
EXP2 = np.array([round(2 ** (16 + i / 256)) for i in range(256)], np.int64)
MOST_DIMS = 256

Int8 = npt.NDArray[np.int8]
State = npt.NDArray[np.float64]


class Prior:
    """Integer tables that give every code of every codebook a weight, from the codes before it.

    A state of D whole numbers starts each frame as the sum of the ``before`` rows of the last frame's codes, zero in
    the first frame; ``after`` rows of the frame's own codes are added as they become known. The weight of code x of
    codebook k is about ``2 ** ((bias[k][x] + (out[k][x] . state) / 4) / 256)``.

    Args:
        sizes: V of each codebook.
        before: (sum of V, D) int8, codebook after codebook.
        after: (sum of V, D) int8.
        out: (sum of V, D) int8.
        bias: (sum of V,) int16.
    """

    def __init__(
        self, sizes: tuple[int, ...], before: Int8, after: Int8, out: Int8, bias: npt.NDArray[np.int16]
    ) -> None:
        self.sizes = tuple(sizes)
        self._arrays = before.astype("i1"), after.astype("i1"), out.astype("i1"), bias.astype("<i2")
        total, dim = before.shape
        if (
            total != sum(sizes)
            or any(a.shape != (total, dim) for a in (after, out))
            or bias.shape != (total,)
        ):
            raise TokError("the entropy tables do not fit their codebooks")
        self.id = zlib.crc32(self.to_bytes()) or 1  # 0 is for no tables
        self.dim = dim
        cuts = np.cumsum(sizes)[:-1]
        # float64 holds these whole numbers exactly and multiplies them much faster than integers
        self._before, self._after, self._out = (
            np.split(a.astype(np.float64), cuts) for a in self._arrays[:3]
        )
        self._bias = np.split(bias.astype(np.int64), cuts)

    def fits(self, sizes: tuple[int, ...]) -> bool:
        """Whether these are the first of the codebooks that the tables are for."""
        return self.sizes[: len(sizes)] == tuple(sizes)

    def start(self, codes: Codes) -> State:
        """The states (t, D) of the frames that follow codes (K', t), before any code of theirs is known."""
        return sum(
            (self._before[k][row] for k, row in enumerate(codes)), np.zeros((codes.shape[1], self.dim))
        )

    def step(self, codebook: int, codes: Codes | int) -> State:
        """What codes (t,) of one codebook add to the states (t, D) of their own frames."""
        return self._after[codebook][codes]

    def weights(self, codebook: int, state: State) -> npt.NDArray[np.int64]:
        """Weights (t, V) of the codes of one codebook, each 1 to 65537, for states (t, D)."""
        score = ((state @ self._out[codebook].T).astype(np.int64) >> 2) + self._bias[codebook]
        score -= score.max(axis=1, keepdims=True)
        return 1 + (EXP2[score & 255] >> np.minimum(-(score >> 8), 31))

    def to_bytes(self) -> bytes:
        """The tables as one string of bytes, to be stored beside a model's weights."""
        numbers = (len(self.sizes), *self.sizes, self._arrays[0].shape[1])
        return MAGIC + b"".join(map(put_varint, numbers)) + b"".join(a.tobytes() for a in self._arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Prior":
        """The inverse of `to_bytes`.

        Raises:
            TokError: these are no entropy tables.
        """
        try:
            if data[: len(MAGIC)] != MAGIC:
                raise IndexError
            codebooks, at = get_varint(data, len(MAGIC))
            sizes = []
            for _ in range(min(codebooks, len(data))):
                size, at = get_varint(data, at)
                sizes.append(size)
            dim, at = get_varint(data, at)
            total = sum(sizes)
            if not 1 <= dim <= MOST_DIMS or len(data) - at != total * (3 * dim + 2):
                raise IndexError
        except IndexError:
            raise TokError("these are no entropy tables") from None
        tables = np.frombuffer(data, np.int8, 3 * total * dim, at).reshape(3, total, dim)
        bias = np.frombuffer(data, "<i2", total, at + 3 * total * dim)
        return cls(tuple(sizes), tables[0], tables[1], tables[2], bias)
