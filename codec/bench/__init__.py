"""Benchmarks: what ``codec bench`` measures."""
