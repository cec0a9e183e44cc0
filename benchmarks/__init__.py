"""Where the project's figures come from: each file measures one thing, `python -m benchmarks` runs them all."""
