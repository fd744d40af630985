"""A collapsed codebook of 1,024 codes comes back to life, and does not without help."""

import pytest
import torch
from torch import Tensor

from codec.quantizers import VQ
from codec.quantizers.codebook.assignment import nearest
from codec.quantizers.codebook.replacement import Threshold

D, V = 8, 1024
SHAPE = torch.Generator().manual_seed(0)
CENTRES = torch.randn(8, D, generator=SHAPE)


def mixture(count: int) -> Tensor:
    """Vectors (1, D, count) of a Gaussian mixture of eight parts."""
    return (CENTRES[torch.randint(8, (count,))] + torch.randn(count, D)).t()[None]


def usage(quantizer: VQ, count: int = 30_000) -> float:
    """Share of codes that are the nearest one of some vector."""
    codes = quantizer.codebook(0).tables()[0]
    vectors = mixture(count)[0].t()
    index = torch.cat([nearest(part, codes) for part in vectors.split(4096)])
    return (torch.bincount(index, minlength=V) > 0).float().mean().item()


def collapsed(spot: float = 4.0, **choices: object) -> VQ:
    """All codes on one spot, as far from the data's centre in every channel; all vectors on few codes."""
    quantizer = VQ(D, V, **choices)  # type: ignore[arg-type]
    codebook = quantizer.codebook(0)
    codebook.load_table(spot + 0.01 * torch.randn(V, D))
    codebook.counts.zero_()
    codebook.counts[0] = 1024.0
    codebook.update_rule.reset(codebook.table.weight, codebook.counts, torch.ones(V, dtype=torch.bool))
    assert usage(quantizer) < 0.25
    return quantizer


def train(quantizer: VQ, steps: int, learning_rate: float = 0.0) -> int:
    """Steps until 99.3% of the codes are used by one and by another sample of vectors, or ``steps``."""
    optimiser = torch.optim.Adam(quantizer.parameters(), learning_rate) if learning_rate else None
    for step in range(1, steps + 1):
        out = quantizer(mixture(1024))
        if optimiser is not None:
            optimiser.zero_grad()
            out.losses["codebook"].backward()
            optimiser.step()
        if step % 25 == 0 and min(usage(quantizer), usage(quantizer)) >= 0.993:
            return step
    return steps


@pytest.mark.parametrize(
    ("choices", "spot", "learning_rate"),
    [
        ({"replace_dead": "threshold"}, 4.0, 0.0),
        ({"replace_dead": "cvq"}, 4.0, 0.0),
        ({"assignment": "sinkhorn", "replace_dead": "none"}, 4.0, 0.0),
        (
            {"table": "fvq"},
            1.0,
            2e-3,
        ),  # learning from the outside of the data, it stops at a sixth of the codes
    ],
    ids=["threshold", "cvq", "optvq", "fvq"],
)
def test_revived(choices: dict, spot: float, learning_rate: float) -> None:
    torch.manual_seed(0)
    quantizer = collapsed(spot, **choices)
    steps = train(quantizer, 500, learning_rate)
    assert usage(quantizer) >= 0.99
    assert steps < 500


@pytest.mark.parametrize(("learn", "spot", "learning_rate"), [("ema", 4.0, 0.0), ("gradient", 1.0, 2e-3)])
def test_without_help_it_stays_collapsed(learn: str, spot: float, learning_rate: float) -> None:
    torch.manual_seed(0)
    quantizer = collapsed(spot, update=learn, replace_dead="none")
    train(quantizer, 150, learning_rate)
    assert usage(quantizer) < 0.3
    out = quantizer(mixture(1024))
    assert out.metrics["usage"] < 0.3  # and the metrics say so
    assert out.metrics["perplexity"] < 0.3 * V


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_latents_that_leave_the_codes_of_a_large_start_are_followed(learn: str) -> None:
    """Counts in vectors of the start, not of a step, hid for hundreds of steps that codes had died."""
    torch.manual_seed(0)
    quantizer = VQ(D, V, update=learn, replace_dead="threshold")
    quantizer(mixture(16_384))
    quantizer.codebook(0).restart_counts()
    distinct = [quantizer(mixture(128) + 20.0).codes.unique().numel() for _ in range(60)]
    assert max(distinct[:3]) < 40, "the codes are where the latents were"
    assert min(distinct[-3:]) > 60


def test_no_two_codes_move_to_one_vector() -> None:
    """With fewer vectors than dead codes the second of two equal codes would never be chosen."""
    codes, x = torch.randn(V, D), torch.randn(5, D)
    counts = torch.zeros(V)
    counts[0] = 10.0
    moved_to, moved, new_counts = Threshold().propose(codes, counts, x)
    assert int(moved.sum()) == 5
    assert not moved[0]
    assert len(moved_to[moved].unique(dim=0)) == 5
    assert torch.equal(moved_to[~moved], codes[~moved])
    assert torch.equal(new_counts[~moved], counts[~moved])
