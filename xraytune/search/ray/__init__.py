"""The only folder that imports Ray: Tune runs the trials, this adapts them to it."""
