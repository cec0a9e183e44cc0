"""A study on disk: its folder, journal, rows of trials, and status."""
