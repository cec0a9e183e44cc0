"""After a search: export the best configuration, train the final model, and evaluate it."""
