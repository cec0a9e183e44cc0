"""Which images a classifier sees: real ones, extra ones, and how often each."""
