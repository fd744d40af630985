"""What a wider search at encode time gains, and what it costs."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.bench.vectors import each_latents
from codec.data.recordings import Recording
from codec.errors import ConfigError
from codec.metrics.statistics import estimate
from codec.models.codec import Codec


@dataclass(frozen=True, slots=True)
class Gain:
    """A search beside the greedy one of as many codebooks.

    Attributes:
        num_codebooks: K.
        beam: sequences kept.
        refine: sweeps of coordinate descent.
        error: squared error over that of the greedy search, all recordings together.
        low: end of the 95% interval of that, by a bootstrap over recordings (percentiles).
        high: the other end.
        us_per_vector: processor time.
    """

    num_codebooks: int
    beam: int
    refine: int
    error: float
    low: float
    high: float
    us_per_vector: float


@torch.no_grad()
def compare(
    codec: Codec,
    recordings: Sequence[Recording],
    *,
    codebooks: Iterable[int] | None = None,
    beams: Iterable[int] = (1, 2, 4, 8, 16),
    sweeps: Iterable[int] = (0, 1, 2),
    progress: Callable[[str], None] | None = None,
) -> list[Gain]:
    """Search the codes of recordings' latents in several ways.

    Args:
        codec: a model in evaluation mode.
        recordings: of any rate and channel count.
        codebooks: numbers of them; None means all of them.
        beams: widths of the beam.
        sweeps: numbers of sweeps of coordinate descent.
        progress: called with what is being searched.

    Raises:
        ConfigError: there is no sound.
        CodecError: the quantizer has no such number of codebooks.
    """
    parts = each_latents(codec, recordings)
    vectors = torch.cat(parts).t()[None]
    sizes = [len(part) for part in parts]
    quantizer, gains = codec.quantizer, []

    def search(number: int, beam: int, refine: int) -> tuple[Tensor, float]:
        """Squared error of each recording, and microseconds per vector."""
        begin = time.process_time()
        codes = quantizer.encode(vectors, num_codebooks=number, beam=beam, refine=refine)
        spent = time.process_time() - begin
        error = (quantizer.decode(codes) - vectors)[0].double().square().sum(0)
        sums = torch.stack([part.sum() for part in error.split(sizes)])
        return sums, 1e6 * spent / vectors.shape[2]

    for number in quantizer.prefixes[-1:] if codebooks is None else codebooks:
        search(number, 1, 0)  # what happens once is not counted
        greedy, _ = search(number, 1, 0)
        for refine in sweeps:
            for beam in beams:
                if progress is not None:
                    progress(f"{number} codebooks, beam {beam}, refine {refine}")
                error, spent = search(number, beam, refine)
                ratio = estimate((error / greedy).tolist(), greedy.tolist())
                gains.append(Gain(number, beam, refine, ratio.mean, ratio.low, ratio.high, spent))
    if not gains:
        raise ConfigError("there is nothing to compare")
    return gains
