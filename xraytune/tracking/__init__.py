"""Trackers of running trials."""
