"""Classifiers: backbones, heads, augmentation, and the training loop."""
