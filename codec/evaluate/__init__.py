"""Codecs measured side by side on real clips: rates from bytes, sanity checks, intervals, a report."""

from codec.evaluate.options import FAST, Options
from codec.evaluate.parse import BASELINES, parse
from codec.evaluate.results import Evaluation
from codec.evaluate.run import evaluate, machine

__all__ = ["BASELINES", "FAST", "Evaluation", "Options", "evaluate", "machine", "parse"]
