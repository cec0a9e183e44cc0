"""What comes after a search: the best configuration, the final model, and what it is worth."""
