"""Metrics, intervals, comparisons and the verdict: pure functions of arrays."""
