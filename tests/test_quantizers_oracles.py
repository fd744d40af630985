"""The same codebooks give the same codes as the public implementations."""

import pytest
import torch
from torch import Tensor

from codec.quantizers import FSQ, GRVQ, LFQ, RVQ, VQ
from codec.quantizers.codebook.table import SimVQ

D = 16


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def agreement(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return (ours == theirs).float().mean().item()


def test_rvq_as_encodec() -> None:
    ResidualVectorQuantizer = pytest.importorskip("encodec").quantization.ResidualVectorQuantizer

    theirs = ResidualVectorQuantizer(dimension=D, n_q=6, bins=64, kmeans_init=False).eval()
    codebooks = torch.randn(6, 64, D) * torch.linspace(1, 0.3, 6)[:, None, None]
    for layer, codebook in zip(theirs.vq.layers, codebooks, strict=True):
        layer._codebook.embed.data.copy_(codebook)
    ours = RVQ(D, 6, 64).eval()
    ours.load_tables(codebooks)
    z = torch.randn(4, D, 100)
    codes = theirs.vq.encode(z, n_q=6).transpose(0, 1)
    assert agreement(ours.encode(z), codes) == 1.0
    assert torch.allclose(ours.decode(codes), theirs.decode(codes.transpose(0, 1)), atol=1e-5)


def test_vq_and_rvq_as_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch import ResidualVQ, VectorQuantize

    z = torch.randn(4, 100, D)
    single = VectorQuantize(dim=D, codebook_size=64, rotation_trick=False).eval()
    ours = VQ(D, 64).eval()
    ours.load_tables([single._codebook.embed[0]])
    assert agreement(ours.encode(z.mT)[:, 0], single(z)[1]) == 1.0

    several = ResidualVQ(dim=D, num_quantizers=4, codebook_size=64, rotation_trick=False).eval()
    rvq = RVQ(D, 4, 64).eval()
    rvq.load_tables(list(several.codebooks))
    quantized, codes, _ = several(z)
    assert agreement(rvq.encode(z.mT), codes.mT) == 1.0
    assert torch.allclose(rvq.decode(codes.mT), quantized.mT, atol=1e-5)


def test_grouped_rvq_as_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch import GroupedResidualVQ

    z = torch.randn(4, 50, D)
    theirs = GroupedResidualVQ(
        dim=D, groups=2, num_quantizers=3, codebook_size=32, rotation_trick=False
    ).eval()
    ours = GRVQ(D, 2, 3, 32).eval()
    codebooks = [group.codebooks for group in theirs.rvqs]  # 2 of (3, V, D / 2)
    ours.load_tables([codebooks[g][r] for r in range(3) for g in range(2)])
    codes = theirs(z)[1]  # (G, B, T, R)
    assert agreement(ours.encode(z.mT), codes.permute(1, 3, 0, 2).flatten(1, 2)) == 1.0


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], [8, 6, 5], [4, 4, 4], [3, 7]])
def test_fsq_as_vector_quantize_pytorch(levels: list[int]) -> None:
    from vector_quantize_pytorch import FSQ as Theirs

    z = torch.randn(4, 200, len(levels)) * 2
    theirs, ours = Theirs(levels=levels).eval(), FSQ(len(levels), levels).eval()
    quantized, codes = theirs(z)
    assert agreement(ours.encode(z.mT)[:, 0], codes) == 1.0
    assert torch.allclose(ours.decode(codes[:, None]), quantized.mT, atol=1e-6)


def test_lfq_as_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch import LFQ as Theirs

    z = torch.randn(4, 200, 8)
    theirs, ours = Theirs(dim=8, codebook_size=256).eval(), LFQ(8, bits=8).eval()
    _, codes, _ = theirs(z)
    # theirs counts the first channel as the highest bit, ours as the lowest
    flipped = sum(((codes >> bit) & 1) << (7 - bit) for bit in range(8))
    assert agreement(ours.encode(z.mT)[:, 0], flipped) == 1.0


def test_simvq_as_vector_quantize_pytorch() -> None:
    from vector_quantize_pytorch import SimVQ as Theirs

    z = torch.randn(4, 100, D)
    theirs, ours = (
        Theirs(dim=D, codebook_size=64, rotation_trick=False).eval(),
        VQ(D, 64, table="simvq").eval(),
    )
    table = ours.codebook(0).table
    assert isinstance(table, SimVQ)
    table.weight.copy_(theirs.frozen_codebook)
    table.proj.load_state_dict(theirs.code_transform.state_dict())
    quantized, codes, _ = theirs(z)
    assert agreement(ours.encode(z.mT)[:, 0], codes) == 1.0
    assert torch.allclose(ours.decode(codes[:, None]), quantized.mT, atol=1e-5)
