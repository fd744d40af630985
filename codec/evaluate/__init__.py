"""Codecs measured side by side on real clips: rates from bytes, gates, intervals, a report."""

from codec.evaluate.parse import PEERS, parse
from codec.evaluate.run import FAST, Result, evaluate

__all__ = ["FAST", "PEERS", "Result", "evaluate", "parse"]
