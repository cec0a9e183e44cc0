"""`source: none`: no extra images, the arm that all others are compared with."""

from __future__ import annotations

from xraytune.synth.sources.source import Source


class NoImages(Source):
    """No extra images."""

    name = "none"
    colour = "#8c8c8c"
