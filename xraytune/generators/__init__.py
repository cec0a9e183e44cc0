"""DCGANs: training, checkpoints, and sampling of synthetic images."""
