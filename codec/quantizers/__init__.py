"""Quantizers: latents to codes and back, all behind one interface."""

from codec.quantizers.base import Quantizer, QuantizerOutput
from codec.quantizers.grvq import GRVQ
from codec.quantizers.rvq import RVQ
from codec.quantizers.vq import VQ

__all__ = ["GRVQ", "QUANTIZERS", "RVQ", "VQ", "Quantizer", "QuantizerOutput"]

QUANTIZERS: dict[str, type[Quantizer]] = {"vq": VQ, "rvq": RVQ, "grvq": GRVQ}
