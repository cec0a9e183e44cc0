"""From a folder of images to a split by patient, and pixels that are decoded once."""
