"""Two processes (gloo, CPU) keep the same codebooks."""

import os
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from codec.quantizers import FSQ, PVQ, QLAE, RVQ, VQ, Lattice, Quantizer, ResidualFSQ

D, STEPS = 8, 12
QUANTIZERS = {
    "ema": lambda: RVQ(D, 3, 32, dropout=0.7, replace_dead={"name": "threshold", "ratio": 0.3, "every": 2}),
    "cvq": lambda: RVQ(D, 2, 32, replace_dead="cvq"),
    "sinkhorn": lambda: RVQ(D, 2, 32, assignment="sinkhorn", dropout=0.5),
    "shared": lambda: RVQ(D, 3, 32, shared=True, dropout=0.5),
    "factorized": lambda: RVQ(D, 2, 32, table={"name": "factorized", "width": 4}),
    "pvq": lambda: PVQ(D, 2, pulses=2, gains=4),
    "fsq": lambda: FSQ(D, [5, 5], 2),
    "lattice": lambda: Lattice(D, [5, 5], 2),
    "qlae": lambda: QLAE(D, [5, 5, 4, 4], 2),
    "residual_fsq": lambda: ResidualFSQ(D, [5, 5, 4, 4], 2, groups=2),
}


def batch(rank: int, step: int) -> Tensor:
    """Other data in each process, and more of it in the second."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(2 + rank, D, 20, generator=generator) + rank


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results: dict[str, object] = {}
    for name, make in QUANTIZERS.items():
        torch.manual_seed(0)  # as data-parallel training does, both begin with the same parameters
        quantizer: Quantizer = make()
        torch.manual_seed(rank)  # and draw other random numbers from then on
        for step in range(STEPS):
            z = batch(rank, step)
            if step == 5 and rank == 1:
                z[0, 0, 0] = float("nan")  # one process sees NaN: neither may learn from this step
            quantizer(z)
        results[name] = quantizer.state_dict()
    results["survivor"] = survivor(rank)
    results["alone"] = mean_of_all(rank)
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def survivor(rank: int) -> Tensor:
    """How often a code that was dead is chosen, for ten steps after its revival."""
    torch.manual_seed(0)
    quantizer = VQ(D, 16, replace_dead={"name": "threshold", "every": 1})
    torch.manual_seed(rank)
    quantizer(batch(rank, 0))
    codebook = quantizer.codebook(0)
    codebook.table.weight[5] = 1e3
    codebook.counts[5] = 0
    codebook.update_rule.reset(codebook.table.weight, codebook.counts, torch.arange(16) == 5)
    quantizer(batch(rank, 1))
    counts = []
    for _ in range(10):
        used = (quantizer(batch(rank, 1)).codes == 5).sum()
        dist.all_reduce(used)
        counts.append(used)
    return torch.stack([*counts, codebook.table.weight[5].norm()])


def mean_of_all(rank: int) -> Tensor:
    """One step of running means over both processes' vectors."""
    torch.manual_seed(0)
    quantizer = VQ(D, 4, replace_dead="none", init="random")
    quantizer.codebook(0).load_table(torch.randn(4, D))
    quantizer(batch(rank, 0))
    return quantizer.codebook(0).table.weight


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("gloo")
    mp.spawn(work, (str(folder),), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", QUANTIZERS)
def test_books_are_identical(both: list[dict], name: str) -> None:
    first, second = both[0][name], both[1][name]
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
        assert torch.isfinite(value).all()


def test_a_revived_code_survives(both: list[dict]) -> None:
    assert torch.equal(both[0]["survivor"], both[1]["survivor"])
    *counts, norm = both[0]["survivor"].tolist()
    assert norm < 10
    assert all(count > 0 for count in counts)


def test_the_running_mean_is_that_of_one_large_batch(both: list[dict]) -> None:
    torch.manual_seed(0)
    quantizer = VQ(D, 4, replace_dead="none", init="random")
    quantizer.codebook(0).load_table(torch.randn(4, D))
    quantizer(torch.cat([batch(0, 0), batch(1, 0)]))
    for rank in range(2):
        assert torch.allclose(both[rank]["alone"], quantizer.codebook(0).table.weight, atol=1e-6)
