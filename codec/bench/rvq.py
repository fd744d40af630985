"""Speed and exactness of the codebook search beside what others offer: needs torch and numpy, the others are optional.

Every contender gets the same vectors and codebooks, in turn, round after round; the figures are medians. The vectors
are white Gaussian noise. The codebooks are as well, with the share of the power that an ideal quantizer of this rate
takes from a Gaussian source (Cover and Thomas, Elements of Information Theory, section 10.3), so that every stage has
as hard a choice as the one before.
"""

import argparse
import ctypes
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from codec import assets, native, ops, system
from codec.bench.timing import Work, in_turn
from codec.errors import ConfigError
from codec.ops import plain, reference

Search = Callable[[], Tensor]  # -> codes (M, K)


@dataclass(frozen=True, slots=True)
class Shape:
    """M vectors of width D against K codebooks of V codes, with so many sequences kept."""

    rows: int
    dim: int
    size: int = 1024
    stages: int = 8
    beam: int = 1

    def __str__(self) -> str:
        beam = f" B={self.beam}" if self.beam > 1 else ""
        return f"M={self.rows} D={self.dim} V={self.size} K={self.stages}{beam}"

    @classmethod
    def parse(cls, text: str) -> "Shape":
        """``MxDxVxK``, or ``MxDxVxKxB`` with a beam; ConfigError otherwise."""
        try:
            numbers = [int(part) for part in text.split("x")]
        except ValueError:
            numbers = []
        if len(numbers) not in (4, 5) or min(numbers) < 1:
            raise ConfigError(f"a shape is MxDxVxK or MxDxVxKxB in whole numbers, not {text!r}")
        return cls(*numbers)

    @property
    def work(self) -> float:
        """Floating point operations of the scores; a beam's first stage has one sequence."""
        return 2.0 * self.rows * self.dim * self.size * (1 + (self.stages - 1) * self.beam)


#: One streaming frame, ten seconds and more of a 75 Hz codec, narrow codebooks as of DAC, a beam.
SHAPES = {
    "cpu": (
        Shape(1, 128),
        Shape(750, 128),
        Shape(7500, 128),
        Shape(750, 8),
        Shape(7500, 8),
        Shape(750, 128, beam=4),
    ),
    "cuda": (
        Shape(1, 128),
        Shape(7500, 128),
        Shape(270_000, 128),
        Shape(1, 8),
        Shape(270_000, 8),
        Shape(270_000, 64, size=1000),
        Shape(270_000, 512),
        Shape(270_000, 128, beam=4),
        Shape(20_000, 16, size=16_384, stages=2),
    ),
}


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender on one shape.

    Attributes:
        shape: what was searched.
        device: ``cpu`` or ``cuda``.
        name: of the contender.
        seconds: median of one search; None where there is none, and `note` says why.
        gflops: billions of floating point operations of the scores per second.
        share: of the device's measured matrix peak.
        bytes: memory that the first search took beyond what was there; None where nobody can say.
        wrong: choices that are not the nearest code vector in float64; with a beam, vectors whose codes are not the
            specification's among the first ``CHECKED``.
        note: why there are no figures.
    """

    shape: str
    device: str
    name: str
    seconds: float | None = None
    gflops: float | None = None
    share: float | None = None
    bytes: int | None = None
    wrong: int | None = None
    note: str = ""


CHECKED = 64  # vectors of a beam search that the specification, which is slow, is asked about


class Missing(Exception):
    """A contender cannot take part; the message says why."""


def problem(shape: Shape, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Vectors ``(M, D)`` and codebooks ``(K, V, D)``, the same ones in every run."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape.rows, shape.dim, generator=generator)
    codebooks = torch.randn(shape.stages, shape.size, shape.dim, generator=generator)
    taken = 1 - 2 ** (-2 * math.log2(shape.size) / shape.dim)
    sample = torch.randn(1024, shape.dim, generator=generator)
    for stage in range(shape.stages):
        codebooks[stage] *= sample.square().mean().mul(taken).sqrt()
        sample = sample - codebooks[stage][usual(sample, codebooks[stage : stage + 1])[:, 0]]
    return x.to(device), codebooks.to(device)


def usual(x: Tensor, codebooks: Tensor) -> Tensor:
    """What everybody writes: all distances in float32, their smallest, subtract."""
    residual, codes = x, []
    for codebook in codebooks:
        distance = codebook.square().sum(1) - 2 * residual @ codebook.t()
        codes.append(distance.argmin(1))
        residual = residual - codebook[codes[-1]]
    return torch.stack(codes, 1)


def _ours(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    return lambda: ops.rvq_encode(x, codebooks, beam=shape.beam)


def _graph(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    ops.rvq_encode(x, codebooks, beam=shape.beam)  # the library is loaded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes = ops.rvq_encode(x, codebooks, beam=shape.beam)

    def search() -> Tensor:
        graph.replay()
        return codes

    return search


def _exact_torch(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    return lambda: plain.rvq_encode(x[None], codebooks[None], shape.beam)[0]


def _usual(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    _greedy(shape)
    return lambda: usual(x, codebooks)


def _compiled(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    _greedy(shape)
    search = torch.compile(usual, dynamic=False)
    return lambda: search(x, codebooks)


def _encodec(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    _greedy(shape)
    try:
        package = assets.optional("encodec.quantization.core_vq", "encodec")
    except ConfigError as error:
        raise Missing(str(error)) from error
    quantizer = package.ResidualVectorQuantization(
        num_quantizers=shape.stages, dim=shape.dim, codebook_size=shape.size, kmeans_init=False
    )
    quantizer.eval().to(x.device)
    for name, embed in quantizer.named_buffers():  # layers.3._codebook.embed
        if name.endswith(".embed"):
            embed.copy_(codebooks[int(name.split(".")[1])])
    columns = x.t()[None].contiguous()
    return lambda: quantizer.encode(columns)[:, 0].t()


def _vector_quantize_pytorch(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    _greedy(shape)
    try:
        from vector_quantize_pytorch import ResidualVQ
    except ImportError as error:
        raise Missing("vector-quantize-pytorch is not installed") from error
    quantizer = ResidualVQ(dim=shape.dim, num_quantizers=shape.stages, codebook_size=shape.size)
    quantizer.eval().to(x.device)
    for layer, codebook in zip(quantizer.layers, codebooks, strict=True):
        layer._codebook.embed.copy_(codebook[None])
    return lambda: quantizer(x[None])[1][0]


def _faiss(x: Tensor, codebooks: Tensor, shape: Shape) -> Search:
    if x.device.type != "cpu":
        raise Missing("its residual quantizer encodes on the CPU only")
    bits = shape.size.bit_length() - 1
    if shape.size != 1 << bits:
        raise Missing("its codebooks have a power of two of codes")
    try:
        import faiss
    except ImportError as error:
        raise Missing("faiss-cpu is not installed") from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    quantizer = faiss.ResidualQuantizer(shape.dim, shape.stages, bits)
    quantizer.max_beam_size = shape.beam
    faiss.copy_array_to_vector(codebooks.numpy().ravel(), quantizer.codebooks)
    quantizer.is_trained = True
    vectors = x.numpy()

    def search() -> Tensor:
        packed = quantizer.compute_codes(vectors)
        return torch.from_numpy(faiss.unpack_bitstrings(packed, shape.stages, bits).astype("int64"))

    return search


def _greedy(shape: Shape) -> None:
    if shape.beam > 1:
        raise Missing("it has no beam")


CONTENDERS: dict[str, Callable[[Tensor, Tensor, Shape], Search]] = {
    "codec.ops": _ours,
    "codec.ops, CUDA graph": _graph,
    "codec.ops in plain torch": _exact_torch,
    "plain torch float32": _usual,
    "torch.compile": _compiled,
    "encodec": _encodec,
    "vector-quantize-pytorch": _vector_quantize_pytorch,
    "faiss": _faiss,
}


def measure(
    shapes: Sequence[Shape], device: str = "cpu", *, rounds: int = 5, compiled: bool = False
) -> Iterator[Measurement]:
    """Every contender on every shape.

    Args:
        shapes: what to search.
        device: ``cpu``, with as many threads as torch is set to, or ``cuda``.
        rounds: how often each contender has its turn; the figures are medians.
        compiled: also what ``torch.compile`` makes of plain torch, which takes a while to make.
    """
    highest = peak(device)
    for shape in shapes:
        x, codebooks = problem(shape, device)
        figures, searches, extra, wrong = [], {}, {}, {}
        with torch.inference_mode():
            for name, make in CONTENDERS.items():
                if (name == "torch.compile" and not compiled) or (make is _graph and device == "cpu"):
                    continue
                try:
                    search = make(x, codebooks, shape)
                except Missing as reason:
                    figures.append(Measurement(str(shape), device, name, note=str(reason)))
                    continue
                codes, extra[name] = _first(search, device)
                wrong[name] = mistakes(x, codebooks, codes, shape.beam)
                searches[name] = search
            for name, seconds in _medians(searches, device, rounds).items():
                rate = shape.work / seconds
                figures.append(
                    Measurement(
                        str(shape),
                        device,
                        name,
                        seconds,
                        rate / 1e9,
                        rate / highest,
                        extra[name],
                        wrong[name],
                    )
                )
        order = list(CONTENDERS)
        yield from sorted(figures, key=lambda figure: order.index(figure.name))


def mistakes(x: Tensor, codebooks: Tensor, codes: Tensor, beam: int = 1) -> int:
    """How many choices are wrong; see `Measurement`. Each stage is compared for the residual it was given."""
    if beam > 1:
        some = min(CHECKED, len(x))
        expected = reference.rvq_encode(x[None, :some], codebooks[None], beam)[0]
        return int((expected != codes[:some]).any(1).sum())
    wrong, step = 0, max(1, (1 << 26) // codebooks.shape[1])
    for start in range(0, len(x), step):
        residual = x[start : start + step]
        for codebook, chosen in zip(codebooks.double(), codes[start : start + step].t(), strict=True):
            wide = residual.double()
            half = codebook.square().sum(1) / 2
            score = torch.addmm(half, wide, codebook.t(), beta=-1)
            # float64 itself is that far off
            unsure = 2.0**-44 * (wide.square().sum(1) + half.max())
            wrong += int((score.gather(1, chosen[:, None])[:, 0] < score.amax(1) - unsure).sum())
            residual = residual - codebook[chosen].float()
    return wrong


def check(count: int, shape: Shape, device: str = "cpu") -> int:
    """Wrong choices of the operator for so many random vectors, as many at a time as ``shape`` has rows."""
    wrong = 0
    _, codebooks = problem(shape, device)
    for seed in range(-(-count // shape.rows)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(min(shape.rows, count - seed * shape.rows), shape.dim, generator=generator).to(device)
        wrong += mistakes(x, codebooks, ops.rvq_encode(x, codebooks))
    return wrong


def peak(device: str) -> float:
    """Floating point operations per second of a large matrix product: bfloat16 on a GPU, float32 on the CPU."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1536, torch.float32)
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return 2 * side**3 / _medians({"": lambda: a @ b}, device, 5)[""]


def _medians(searches: Mapping[str, Search], device: str, rounds: int) -> dict[str, float]:
    """Median seconds of each; short ones are repeated for two milliseconds."""

    def measure(search: Work, count: int) -> float:
        _wait(device)
        began = time.perf_counter()
        for _ in range(count):
            search()
        _wait(device)
        return (time.perf_counter() - began) / count

    counts: dict[Work, int] = {s: max(1, round(2e-3 / measure(s, 1))) for s in searches.values()}
    spent = in_turn(searches, rounds, lambda search: measure(search, counts[search]))
    return {name: statistics.median(times) for name, times in spent.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _first(search: Search, device: str) -> tuple[Tensor, int | None]:
    """Codes, and the highest that memory rose meanwhile."""
    if device == "cuda":
        search()  # a library is compiled and loaded at its first use
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        codes = search()
        return codes, torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what others have freed would hide what this one takes
        system.reset_peak_memory()
        before = system.memory()
        codes = search()
        return codes, system.peak_memory() - before
    except (OSError, AttributeError):
        return search(), None


def table(figures: Iterable[Measurement]) -> Iterator[str]:
    """Lines for people to read."""
    title = ""
    for figure in figures:
        if title != (title := f"{figure.device}: {figure.shape}"):
            yield f"{title} (native extension: {native.describe()})" if figure.device == "cpu" else title
        if figure.seconds is None:
            yield f"  {figure.name:26} {figure.note}"
            continue
        memory = "" if figure.bytes is None else f"{figure.bytes / 2**20:9.1f} MiB"
        yield (
            f"  {figure.name:26} {1e3 * figure.seconds:10.3f} ms {figure.gflops:10.1f} GFLOP/s "
            f"{figure.share:7.1%} of peak {memory} {figure.wrong:6} wrong"
        )


def run(
    device: str = "all",
    shapes: Sequence[str] = (),
    *,
    threads: int = 1,
    rounds: int = 5,
    compiled: bool = False,
) -> Iterator[Measurement]:
    """What ``codec bench rvq`` measures.

    Args:
        device: ``cpu``, ``cuda``, or ``all`` there are.
        shapes: each as `Shape.parse` takes it; without any, ``SHAPES`` of the device.
        threads: of the CPU.
        rounds: see `measure`.
        compiled: see `measure`.

    Raises:
        ConfigError: there is no such device, or a shape cannot be read.
    """
    devices = (
        ["cpu", "cuda"] if device == "all" and torch.cuda.is_available() else [device.replace("all", "cpu")]
    )
    if device not in ("all", "cpu", "cuda"):
        raise ConfigError(f"the device is cpu, cuda or all, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device here")
    chosen = [Shape.parse(shape) for shape in shapes]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in devices:
            yield from measure(chosen or SHAPES[name], name, rounds=rounds, compiled=compiled)
    finally:
        torch.set_num_threads(before)


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m codec.bench.rvq``: ``codec bench rvq`` for machines that have torch and little else."""
    parser = argparse.ArgumentParser(prog="python -m codec.bench.rvq", description=__doc__.split("\n")[0])
    parser.add_argument("shapes", nargs="*", metavar="MxDxVxK[xB]")
    parser.add_argument("--device", default="all")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="time torch.compile too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--check", type=int, metavar="N", help="time nothing; wrong choices for N vectors, M at a time"
    )
    given = parser.parse_args(arguments)
    try:
        if given.check:
            device = "cuda" if given.device == "cuda" else "cpu"
            for shape in map(Shape.parse, given.shapes):
                print(
                    f"{device}: {shape}: {check(given.check, shape, device)} wrong of {given.check} vectors",
                    flush=True,
                )
            return 0
        show(
            run(
                given.device, given.shapes, threads=given.threads, rounds=given.rounds, compiled=given.compile
            ),
            given.json,
        )
    except ConfigError as error:
        parser.error(str(error))
    return 0


def show(figures: Iterable[Measurement], as_json: bool) -> None:
    """Print figures, as lines while they come in or as JSON."""
    if as_json:
        print(json.dumps([asdict(figure) | {"native": native.describe()} for figure in figures], indent=2))
        return
    for line in table(figures):
        print(line, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
