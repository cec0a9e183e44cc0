"""Errors, files, locks, randomness and records: used by all, knows nothing of the rest."""
