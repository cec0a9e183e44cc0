"""Audit a folder of synthetic images: one scorecard, from image quality to benefit to a classifier."""
