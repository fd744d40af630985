"""The quantizer doctor: trains every quantizer for a few seconds and says how each of them fares."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codec import api, audio
from codec.bench.quantizers_report import Result, plot, write_csv
from codec.build import make
from codec.errors import ConfigError
from codec.models.codec import Codec
from codec.quantizers import Quantizer, Scalar

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
        "learn": "gradient",
        "revive": "none",
        "start": "random",
    },
    "mcrvq": {"name": "mcrvq", "num_codebooks": 4, "codebook_size": 1024},
    "product": {"name": "product", "num_codebooks": 4, "codebook_size": 1024},
    "split_rvq": {"name": "split_rvq", "num_codebooks": 4, "codebook_size": 1024},
    "vaevq": {"name": "vaevq", "num_codebooks": 4, "codebook_size": 1024, "sampled": 0.0},
    **{f"rvq table={t}": _RVQ | {"table": t} for t in ("simvq", "fvq", "projected", "affine", "factorized")},
    **{f"rvq assign={a}": _RVQ | {"assign": a} for a in ("sinkhorn", "softmax", "gumbel")},
    **{f"rvq learn={way}": _RVQ | {"learn": way} for way in ("gradient", "sync")},
    **{f"rvq revive={r}": _RVQ | {"revive": r} for r in ("none", "cvq")},
    "rvq bridge=rotation": _RVQ | {"bridge": "rotation"},
    **{
        f"rvq regularise={r}": _RVQ | {"learn": "gradient", "regularise": [r]}
        for r in ("orthogonal", "entropy", "wasserstein")
    },
    "fsq": {"name": "fsq"} | _PAIRS,
    "ifsq": {"name": "ifsq"} | _PAIRS,
    "residual_fsq": {"name": "residual_fsq", "levels": [8, 5, 5, 5], "stages": 4},
    "residual_fsq grouped": {"name": "residual_fsq", "levels": [4, 4, 4, 4, 4], "stages": 1, "groups": 4},
    "lfq": {"name": "lfq", "bits": 10, "num_codebooks": 4},
    "bsq": {"name": "bsq", "bits": 10, "num_codebooks": 4},
    "bernoulli": {"name": "bernoulli", "bits": 10, "num_codebooks": 4},
    "lattice": {"name": "lattice"} | _PAIRS,
    "qlae": {"name": "qlae"} | _PAIRS,
    "pvq": {"name": "pvq", "num_codebooks": 4, "pulses": 4, "gains": 8},
    "turboquant": {"name": "turboquant", "bits": 2},
}
#: Weights of the loss terms; the reconstruction error has weight 1, and terms that are not named have none.
WEIGHTS = {
    "codebook": 1.0,
    "commit": 0.25,
    "orthogonal": 1.0,
    "entropy": 0.01,
    "wasserstein": 0.1,
    "size": 0.001,
}
_HELD_OUT = 16_384  # vectors that are measured, never trained on
_BATCH = 1024


def gaussian(count: int, dim: int = 16) -> Tensor:
    """White Gaussian vectors (count, dim), the same ones in every run."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0))


def latents(codec: Codec, paths: Iterable[str | PathLike[str]]) -> Tensor:
    """What the encoder of a codec makes of sound files, (M, D), in random order."""
    found = []
    for path in paths:
        sound, rate = audio.read(path)
        samples = torch.from_numpy(audio.to_model(sound, rate, codec.sample_rate, codec.channels)[0])
        samples = samples[..., : samples.shape[-1] // codec.hop * codec.hop]
        with torch.inference_mode():
            found.append(codec.encoder(samples).transpose(1, 2).flatten(0, 1).float())
    if not found:
        raise ConfigError("there are no sound files to take latents from")
    every = torch.cat(found).clone()
    return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))]


def run(
    out: str | PathLike[str],
    *,
    data: str | PathLike[str] | None = None,
    model: str = "default",
    names: Iterable[str] | None = None,
    seconds: float = 3.0,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """Examine quantizers and write ``quantizers.csv`` and ``quantizers.png``: what ``codec bench quantizers`` does.

    Args:
        out: folder to write to; made if missing.
        data: sound file, or folder of sound files, for the latents of ``model``; None examines Gaussian vectors only.
        model: name or path of the weights whose encoder makes the latents.
        names: keys of ``ENTRIES``; None means all.
        seconds: processor time for the training of each.
        progress: is told what is being examined.

    Raises:
        ConfigError: an unknown name, or no sound files.
    """
    vectors = {"gaussian": gaussian(120_000)}
    if data is not None:
        root = Path(data)
        paths = (
            sorted(p for p in root.rglob("*") if p.suffix.lower() in audio.SUFFIXES)
            if root.is_dir()
            else [root]
        )
        vectors["latents"] = latents(api.load(model), paths)
    results = examine(vectors, names=names, seconds=seconds, progress=progress)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(results, folder / "quantizers.csv")
    plot(results, folder / "quantizers.png")
    return results


def examine(
    data: Mapping[str, Tensor],
    *,
    names: Iterable[str] | None = None,
    seconds: float = 3.0,
    progress: Callable[[str], None] | None = None,
) -> list[Result]:
    """Train and measure quantizers.

    Args:
        data: kinds of vectors (M, D) by name; the last ``min(16384, M / 5)`` of each are only measured.
        names: keys of ``ENTRIES``; None means all.
        seconds: processor time for the training of each.
        progress: is told what is being examined.

    Raises:
        ConfigError: an unknown name; the known ones are listed.
    """
    chosen = list(ENTRIES) if names is None else list(names)
    unknown = [name for name in chosen if name not in ENTRIES]
    if unknown:
        raise ConfigError(f"there is no quantizer {unknown[0]!r} to examine; there are {', '.join(ENTRIES)}")
    results = []
    for kind, vectors in data.items():
        held = min(_HELD_OUT, len(vectors) // 5)
        train, test = vectors[:-held], vectors[-held:]
        for name in chosen:
            if progress is not None:
                progress(f"{name} on {kind}")
            results.append(_examine_one(name, kind, train, test, seconds))
    return results


def _examine_one(name: str, kind: str, train: Tensor, test: Tensor, seconds: float) -> Result:
    dim = train.shape[1]
    with _quiet_and_seeded():
        quantizer: Quantizer = make("quantizer", ENTRIES[name], dim=dim)
        # levels that are fixed need an encoder that scales to them: a linear layer stands for it
        inward, outward = (
            _identity(dim) if isinstance(quantizer, Scalar) else nn.Identity() for _ in range(2)
        )
        steps = _train(nn.ModuleList([inward, quantizer, outward]), train, seconds)
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
    training = ("learn.", "counts", "steps", "started")
    state = {k: v for k, v in quantizer.state_dict().items() if not any(word in k for word in training)}
    return Result(
        quantizer=name,
        data=kind,
        bits=bits,
        sqnr_db=_db((test - test.mean(0)).square().sum() / error),
        line_db=20 * math.log10(2) * bits / dim,
        bound_db=bound_db(torch.cov(torch.cat([train, test]).t()), bits),
        usage=float(out.metrics["usage"]),
        perplexity=float((perplexity / sizes).mean()),
        ns_per_vector=1e9 * spent / len(test),
        parameters=sum(v.numel() for v in state.values()),
        steps=steps,
    )


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _train(chain: nn.ModuleList, vectors: Tensor, seconds: float) -> int:
    """Minimise the reconstruction error until the time is over, the learning rate falling to zero."""
    begin, steps = time.process_time(), 0
    inward, quantizer, outward = chain
    parameters = [p for p in chain.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, 3e-3) if parameters else None
    averages = any(name.endswith("learn.sums") for name in quantizer.state_dict())
    while (spent := time.process_time() - begin) < seconds:
        batch = vectors[torch.randint(len(vectors), (_BATCH,))].view(16, -1, vectors.shape[1])
        out = quantizer(inward(batch).transpose(1, 2))
        steps += 1
        if optimiser is not None:
            loss = (outward(out.quantized.transpose(1, 2)) - batch).square().mean()
            loss = loss + sum(WEIGHTS.get(key, 0.0) * value for key, value in out.losses.items())
            optimiser.param_groups[0]["lr"] = 3e-3 * max(0.0, 1 - spent / seconds)
            optimiser.zero_grad()
            if loss.requires_grad:
                loss.backward()
            optimiser.step()
        elif not averages:
            break  # nothing to learn
    return steps


def bound_db(covariance: Tensor, bits: float) -> float:
    """Best signal-to-noise ratio in dB of Gaussian vectors with this covariance (D, D) at so many bits per vector.

    The rate-distortion function of a Gaussian source: reverse water-filling over the eigenvalues (Cover and Thomas,
    Elements of Information Theory, section 10.3). White vectors give 6.02 dB per bit and dimension.
    """
    power = torch.linalg.eigvalsh(covariance.double()).clamp_min(1e-30)
    low, high = 0.0, float(power.max())
    for _ in range(200):
        level = (low + high) / 2
        needed = (
            0.5 * torch.log2((power / level).clamp_min(1.0)).sum() if level > 0 else torch.tensor(torch.inf)
        )
        low, high = (level, high) if needed > bits else (low, level)
    return _db(power.sum() / power.clamp_max(high).sum())


def _db(ratio: Tensor) -> float:
    return 10 * math.log10(float(ratio))


@contextmanager
def _quiet_and_seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "k-means start")
        torch.manual_seed(0)
        yield
