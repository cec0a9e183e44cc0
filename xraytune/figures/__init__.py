"""Figures as PNG and SVG files."""
