"""Classifiers and segmenters: backbones, augmentation, the training loop."""
