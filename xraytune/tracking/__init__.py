"""What a trial tells others while it runs."""
