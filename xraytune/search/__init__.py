"""Many trials: the study folder, the sampler, the rungs, and Ray."""
