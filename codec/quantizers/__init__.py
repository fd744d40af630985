"""Quantizers: latents to codes and back, all behind one interface."""

from codec.quantizers.additive import Additive
from codec.quantizers.base import LOSS_WEIGHTS, Quantizer, QuantizerOutput
from codec.quantizers.binary import BSQ, LFQ, Bernoulli
from codec.quantizers.fsq import FSQ, IFSQ
from codec.quantizers.grvq import GRVQ
from codec.quantizers.lattice import QLAE, Lattice
from codec.quantizers.mcrvq import MCRVQ
from codec.quantizers.product import ProductVQ
from codec.quantizers.pvq import PVQ
from codec.quantizers.rfsq import ResidualFSQ
from codec.quantizers.rvq import RVQ
from codec.quantizers.scalar import Scalar
from codec.quantizers.splitrvq import SplitRVQ
from codec.quantizers.turboquant import TurboQuant
from codec.quantizers.vaevq import VAEVQ
from codec.quantizers.vq import VQ

QUANTIZERS: dict[str, type[Quantizer]] = {
    "vq": VQ,
    "rvq": RVQ,
    "grvq": GRVQ,
    "mcrvq": MCRVQ,
    "product": ProductVQ,
    "split_rvq": SplitRVQ,
    "vaevq": VAEVQ,
    "fsq": FSQ,
    "ifsq": IFSQ,
    "residual_fsq": ResidualFSQ,
    "lfq": LFQ,
    "bsq": BSQ,
    "bernoulli": Bernoulli,
    "lattice": Lattice,
    "qlae": QLAE,
    "pvq": PVQ,
    "turboquant": TurboQuant,
}

__all__ = ["LOSS_WEIGHTS", "QUANTIZERS", "Additive", "Quantizer", "QuantizerOutput", "Scalar"]
__all__ += sorted(cls.__name__ for cls in QUANTIZERS.values())
