"""Folders and tables of X-rays become an index, a split by patient, and pixels."""
