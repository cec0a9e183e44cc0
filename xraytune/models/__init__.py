"""Networks (classifiers and segmenters), augmentation, and the training loop."""
