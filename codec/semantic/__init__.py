"""Frozen speech encoders: for losses, codecs and metrics."""

from codec.semantic.features import SpeechFeatures
from codec.semantic.hub import first_line, transformers

__all__ = ["SpeechFeatures", "first_line", "transformers"]
