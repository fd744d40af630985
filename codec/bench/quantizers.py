"""Every quantizer trained for a few seconds and compared: what `codec bench quantizers` does."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec import checkpoint
from codec.bench.quantizers_report import Result, plot, write_csv
from codec.bench.vectors import bound_db, decibels, gaussian, latents
from codec.build import make
from codec.data import sources
from codec.errors import ConfigError
from codec.quantizers import LOSS_WEIGHTS, Quantizer, ResidualFSQ, Scalar
from codec.quantizers.pvq import Pyramid

_RVQ = {"name": "rvq", "num_codebooks": 4, "codebook_size": 1024}
_PAIRS = {"levels": [8, 5, 5, 5], "num_codebooks": 4}
#: What is compared: every quantizer, and every choice of the vector quantizers; forty bits per vector where possible.
ENTRIES: dict[str, dict[str, Any]] = {
    "vq": {"name": "vq", "codebook_size": 4096},
    "rvq": _RVQ,
    "rvq shared": _RVQ | {"shared": True},
    "grvq": {"name": "grvq", "groups": 2, "stages": 2, "codebook_size": 1024},
    "grvq hificodec": {
        "name": "grvq",
        "groups": 2,
        "stages": 2,
        "codebook_size": 1024,
        "update": "gradient",
        "replace_dead": "none",
        "init": "random",
    },
    "mcrvq": {"name": "mcrvq", "num_codebooks": 4, "codebook_size": 1024},
    "product": {"name": "product", "num_codebooks": 4, "codebook_size": 1024},
    "split_rvq": {"name": "split_rvq", "num_codebooks": 4, "codebook_size": 1024},
    "vaevq": {"name": "vaevq", "num_codebooks": 4, "codebook_size": 1024, "sampled": 0.0},
    **{f"rvq table={t}": _RVQ | {"table": t} for t in ("simvq", "fvq", "projected", "affine", "factorized")},
    **{f"rvq assignment={a}": _RVQ | {"assignment": a} for a in ("sinkhorn", "softmax", "gumbel")},
    **{f"rvq update={way}": _RVQ | {"update": way} for way in ("gradient", "sync")},
    **{f"rvq replace_dead={r}": _RVQ | {"replace_dead": r} for r in ("none", "cvq")},
    "rvq gradient_estimator=rotation": _RVQ | {"gradient_estimator": "rotation"},
    **{
        f"rvq regularisers={r}": _RVQ | {"update": "gradient", "regularisers": [r]}
        for r in ("orthogonal", "entropy", "wasserstein")
    },
    "fsq": {"name": "fsq"} | _PAIRS,
    "ifsq": {"name": "ifsq"} | _PAIRS,
    "residual_fsq grouped": {"name": "residual_fsq", "levels": [8, 5, 5, 5], "stages": 1, "groups": 4},
    "residual_fsq": {"name": "residual_fsq", "levels": [3, 3, 2, 2], "stages": 2, "groups": 4},
    "residual_fsq fixed": {
        "name": "residual_fsq",
        "levels": [3, 3, 2, 2],
        "stages": 2,
        "groups": 4,
        "robust": False,
    },
    "lfq": {"name": "lfq", "bits": 10, "num_codebooks": 4},
    "bsq": {"name": "bsq", "bits": 10, "num_codebooks": 4},
    "bernoulli": {"name": "bernoulli", "bits": 10, "num_codebooks": 4},
    "lattice": {"name": "lattice"} | _PAIRS,
    "qlae": {"name": "qlae"} | _PAIRS,
    "pvq": {"name": "pvq", "num_codebooks": 4, "gains": 4},
    "turboquant": {"name": "turboquant"},
}
_HELD_OUT = 16_384  # vectors that are measured, never trained on
_BATCH = 1024


def run(
    out: str | PathLike[str],
    *,
    data: str | PathLike[str] | None = None,
    model: str = "default",
    names: Iterable[str] | None = None,
    seconds: float = 3.0,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """Compare quantizers and write ``quantizers.csv`` and ``quantizers.png``: what ``codec bench quantizers`` does.

    Args:
        out: folder to write to; made if missing.
        data: folder of sound files, one file, or .jsonl manifest, for the latents of ``model``; None compares on
            Gaussian vectors only.
        model: name or path of the weights whose encoder makes the latents.
        names: keys of ``ENTRIES``, or their first words for all that begin so; None means all.
        seconds: processor time for the training of each.
        progress: is told what is being trained.

    Raises:
        ConfigError: an unknown name, or no sound.
    """
    chosen = choose(names)
    vectors = {"gaussian": gaussian(120_000)}
    if data is not None:
        found = sources.find(data)
        vectors["latents"] = latents(checkpoint.load(model), found.train + found.valid)
    results = examine(vectors, chosen, seconds=seconds, progress=progress)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(results, folder / "quantizers.csv")
    plot(results, folder / "quantizers.png")
    return results


def choose(names: Iterable[str] | None) -> list[str]:
    """The keys of ``ENTRIES`` that are meant by names or their first words, in the order of ``ENTRIES``.

    Raises:
        ConfigError: nothing has that name; the names are listed.
    """
    if names is None:
        return list(ENTRIES)
    wanted = list(names)
    for name in wanted:
        if not any(_meant(entry, name) for entry in ENTRIES):
            raise ConfigError(f"there is no quantizer {name!r} to examine; there are {', '.join(ENTRIES)}")
    return [entry for entry in ENTRIES if any(_meant(entry, name) for name in wanted)]


def _meant(entry: str, name: str) -> bool:
    return entry == name or entry.startswith(f"{name} ")


def examine(
    data: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    seconds: float = 3.0,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """Train and measure quantizers.

    Args:
        data: kinds of vectors (M, D) by name; the last ``min(16384, M / 5)`` of each are only measured.
        names: keys of ``ENTRIES``.
        seconds: processor time for the training of each.
        progress: is told what is being trained.
    """
    results = []
    for kind, vectors in data.items():
        held = min(_HELD_OUT, len(vectors) // 5)
        train, test = vectors[:-held], vectors[-held:]
        for name in names:
            if progress is not None:
                progress(f"{name} on {kind}")
            results.append(_examine_one(name, kind, train, test, seconds))
    return results


def settings(name: str, dim: int) -> dict[str, Any]:
    """The configuration of an entry; where the width alone makes the rate, the closest to forty bits."""
    more = {}
    if name == "pvq":
        more["pulses"] = next(p for p in range(5, 0, -1) if Pyramid(dim // 4, p).size <= 512)
    elif name == "turboquant":
        more["bits"] = max(1, 40 // dim)
    return ENTRIES[name] | more


def _examine_one(name: str, kind: str, train: Tensor, test: Tensor, seconds: float) -> Result:
    dim = train.shape[1]
    with _quiet_and_seeded():
        quantizer: Quantizer = make("quantizer", settings(name, dim), dim=dim)
        # levels that are fixed need an encoder that scales to them: a linear layer stands for it
        inward, outward = (
            _identity(dim) if isinstance(quantizer, Scalar | ResidualFSQ) else nn.Identity() for _ in range(2)
        )
        steps, duration = _train(nn.ModuleList([inward, quantizer, outward]), train, seconds)
        quantizer.eval()
        with torch.no_grad():
            out = quantizer(inward(test).t()[None])
            error = (outward(out.quantized[0].t()) - test).square().sum()
        quantizer.encode(test[:8].t()[None])  # what happens once is not counted
        begin = time.process_time()
        quantizer.encode(test.t()[None])
        spent = time.process_time() - begin
    bits = sum(math.log2(size) for size in quantizer.codebook_sizes)
    sizes = torch.tensor(quantizer.codebook_sizes, dtype=torch.float32)
    perplexity = torch.stack([out.metrics[f"perplexity/{k}"] for k in range(len(sizes))])
    training = ("update_rule.", "counts", "steps", "initialised")
    state = {k: v for k, v in quantizer.state_dict().items() if not any(word in k for word in training)}
    return Result(
        quantizer=name,
        data=kind,
        bits=bits,
        sqnr_db=decibels((test - test.mean(0)).square().sum() / error),
        line_db=20 * math.log10(2) * bits / dim,
        bound_db=bound_db(torch.cov(test.t()), bits),
        usage=float(out.metrics["usage"]),
        perplexity=float((perplexity / sizes).mean()),
        ns_per_vector=1e9 * spent / len(test),
        parameters=sum(v.numel() for v in state.values()),
        steps=steps,
        ms_per_step=duration,
    )


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _train(chain: nn.ModuleList, vectors: Tensor, seconds: float) -> tuple[int, float]:
    """Minimise the reconstruction error until the processor time is over, the learning rate falling to zero.

    Returns:
        the number of steps, and the milliseconds of one; the first is left out, where there are more.
    """
    inward, quantizer, outward = chain
    parameters = [p for p in chain.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, 3e-3) if parameters else None
    averages = any(name.endswith("update_rule.sums") for name in quantizer.state_dict())
    times = [time.process_time()]
    while (spent := times[-1] - times[0]) < seconds:
        batch = vectors[torch.randint(len(vectors), (_BATCH,))].view(16, -1, vectors.shape[1])
        out = quantizer(inward(batch).transpose(1, 2))
        if optimiser is not None:
            loss = (outward(out.quantized.transpose(1, 2)) - batch).square().mean()
            loss = loss + sum(LOSS_WEIGHTS[key] * value for key, value in out.losses.items())
            optimiser.param_groups[0]["lr"] = 3e-3 * (1 - spent / seconds)
            optimiser.zero_grad()
            if loss.requires_grad:
                loss.backward()
            optimiser.step()
        times.append(time.process_time())
        if optimiser is None and not averages:
            break  # nothing to learn
    steps = len(times) - 1
    return steps, 1e3 * ((times[-1] - times[1]) / (steps - 1) if steps > 1 else times[1] - times[0])


@contextmanager
def _quiet_and_seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-means start")
        torch.manual_seed(0)
        yield
