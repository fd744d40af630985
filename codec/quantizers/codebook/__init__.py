"""A codebook and its five choices: table, assignment, update, dead-code replacement, gradient estimator."""

from codec.quantizers.codebook.choices import DEFAULTS, INITS, OPTIONS, Choices, resolve
from codec.quantizers.codebook.codebook import Codebook, CodebookOutput

__all__ = ["DEFAULTS", "INITS", "OPTIONS", "Choices", "Codebook", "CodebookOutput", "resolve"]
