"""What a study has on disk: folder, journal, rows of trials, status."""
