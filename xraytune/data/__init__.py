"""From a folder of images to patients on two sides of a split, and pixels that are decoded once."""
