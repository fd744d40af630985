"""Learns a `Prior` from the codes of recordings, with numpy alone; its whole numbers are the float ones, rounded."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec.bitstream.pack import Codes
from codec.bitstream.prior import Prior

# A score is out . state / 4 in 256ths of an octave, of which a natural logarithm has 256 / ln 2; both factors get half.
_SCALE = (4 * 256 / np.log(2)) ** 0.5
_LIMIT = 127 / _SCALE

Floats = npt.NDArray[np.float32]


def fit_prior(
    recordings: Sequence[Codes],
    sizes: tuple[int, ...],
    *,
    dim: int = 8,
    passes: int = 3,
    batch: int = 2048,
    rate: float = 0.01,
    seed: int = 0,
) -> Prior:
    """Fits the tables by Adam (Kingma and Ba 2015) on the bits that the codes would take.

    Args:
        recordings: codes (K, T) of each, with the first codebook first.
        sizes: V of each codebook.
        dim: numbers in the predictor's state; the tables take 3 * dim + 2 bytes per code of the books.
        passes: over all frames.
        batch: frames per step.
        rate: of learning at its highest; it falls to zero.
        seed: of the order of frames and the first values.
    """
    rng = np.random.default_rng(seed)
    now = np.concatenate([codes.T for codes in recordings])
    before = np.concatenate([np.r_[np.full((1, len(sizes)), -1), codes.T[:-1]] for codes in recordings])
    model = _Predictor(sizes, now, dim, rng)
    steps = max(1, passes * (len(now) // batch))
    order = np.concatenate([rng.permutation(len(now)) for _ in range(passes + 1)])
    for step in range(steps):
        rows = order[step * batch : (step + 1) * batch]
        # now and then only the first codebooks: a file may hold no more
        codebooks = len(sizes) if rng.random() < 0.75 else int(rng.integers(1, len(sizes) + 1))
        model.learn(now[rows, :codebooks], before[rows, :codebooks], rate * (1 - step / steps), step + 1)
    return model.prior()


class _Predictor:
    """The log-bilinear model of `Prior` in float32, codebook by codebook, and its gradient."""

    def __init__(self, sizes: tuple[int, ...], codes: Codes, dim: int, rng: np.random.Generator) -> None:
        self.sizes = sizes
        self.dim = dim

        def small(size: int) -> Floats:
            return rng.normal(0, 0.1, (size, dim)).astype(np.float32)

        self.before, self.after, self.out = ([small(size) for size in sizes] for _ in range(3))
        counts = [
            np.bincount(column, minlength=size) + 1.0 for column, size in zip(codes.T, sizes, strict=True)
        ]
        self.bias = [np.log(count / count.max()).astype(np.float32) for count in counts]
        self._adam: dict[int, tuple[Floats, Floats]] = {}

    def learn(self, now: Codes, before: Codes, rate: float, step: int) -> None:
        """One step of Adam on codes (n, K'), each after the frame ``before`` (n, K'), -1 where there was none."""
        frames, codebooks = now.shape
        started = before[:, 0] >= 0
        state = np.zeros((frames, self.dim), np.float32)
        for codebook in range(codebooks):
            state[started] += self.before[codebook][before[started, codebook]]
        slopes, updates = [], []
        for codebook in range(codebooks):
            score = state @ self.out[codebook].T + self.bias[codebook]
            score = np.exp(score - score.max(axis=1, keepdims=True))
            score /= score.sum(axis=1, keepdims=True)
            score[np.arange(frames), now[:, codebook]] -= 1
            score /= frames
            slopes.append(score @ self.out[codebook])
            updates += [(self.out[codebook], score.T @ state), (self.bias[codebook], score.sum(axis=0))]
            state = state + self.after[codebook][now[:, codebook]]
        slope = np.zeros_like(state)
        for codebook in reversed(range(codebooks)):
            updates.append((self.after[codebook], _sum_rows(now[:, codebook], slope, self.sizes[codebook])))
            slope = slope + slopes[codebook]
        for codebook in range(codebooks):
            rows = _sum_rows(before[started, codebook], slope[started], self.sizes[codebook])
            updates.append((self.before[codebook], rows))
        for values, gradient in updates:
            self._step(values, gradient, rate, step)

    def _step(self, values: Floats, gradient: Floats, rate: float, step: int) -> None:
        mean, square = self._adam.setdefault(id(values), (np.zeros_like(values), np.zeros_like(values)))
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (gradient * gradient - square)
        values -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
        if values.ndim == 2:
            np.clip(values, -_LIMIT, _LIMIT, out=values)

    def prior(self) -> Prior:
        """The tables as whole numbers."""
        before, after, out = (
            np.rint(_SCALE * np.concatenate(part)).astype(np.int8)
            for part in (self.before, self.after, self.out)
        )
        bias = np.rint(np.concatenate(self.bias) * 256 / np.log(2)).clip(-32768, 32767)
        return Prior(self.sizes, before, after, out, bias.astype(np.int16))


def _sum_rows(codes: Codes, rows: Floats, size: int) -> Floats:
    """Sums rows (n, D) by their code: (size, D). Sorted first, which is faster than adding one by one."""
    order = np.argsort(codes, kind="stable")
    found, starts = np.unique(codes[order], return_index=True)
    sums = np.zeros((size, rows.shape[1]), np.float32)
    if len(found):
        sums[found] = np.add.reduceat(rows[order], starts, axis=0)
    return sums
