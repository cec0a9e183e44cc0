"""What a classifier's probabilities are worth, with intervals over patients."""
