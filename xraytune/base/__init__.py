"""Errors, files, locks, randomness and records, which all other packages use."""
