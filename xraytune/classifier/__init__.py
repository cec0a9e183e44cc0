"""Backbones, seeded views, and the loop that trains them."""
