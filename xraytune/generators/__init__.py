"""GANs and diffusion models: training, checkpoints, and sampling of synthetic images."""
