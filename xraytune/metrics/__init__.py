"""Metrics of a classifier's probabilities, with intervals over patients."""
