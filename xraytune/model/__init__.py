"""The final model: export, training, evaluation, prediction."""
