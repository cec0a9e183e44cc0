"""DCGANs: trained, checkpointed, sampled into pools of synthetic images."""
