"""Quantizers: latents to codes and back, all behind one interface."""

from codec.quantizers.additive import Additive
from codec.quantizers.base import LOSS_WEIGHTS, Quantizer, QuantizerOutput
from codec.quantizers.binary import BSQ, LFQ, Bernoulli
from codec.quantizers.codebook import Codebook
from codec.quantizers.fsq import FSQ, IFSQ, ResidualFSQ
from codec.quantizers.lattice import QLAE, Lattice
from codec.quantizers.pvq import PVQ
from codec.quantizers.scalar import Scalar
from codec.quantizers.split_rvq import SplitRVQ
from codec.quantizers.turboquant import TurboQuant
from codec.quantizers.vaevq import VAEVQ
from codec.quantizers.vector import GRVQ, MCRVQ, RVQ, VQ, ProductVQ

__all__ = [
    "BSQ",
    "FSQ",
    "GRVQ",
    "IFSQ",
    "LFQ",
    "LOSS_WEIGHTS",
    "MCRVQ",
    "PVQ",
    "QLAE",
    "RVQ",
    "VAEVQ",
    "VQ",
    "Additive",
]
__all__ += [
    "Bernoulli",
    "Codebook",
    "Lattice",
    "ProductVQ",
    "Quantizer",
    "QuantizerOutput",
    "ResidualFSQ",
    "Scalar",
]
__all__ += ["SplitRVQ", "TurboQuant"]
