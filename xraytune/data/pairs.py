"""Read a folder of images with masks."""

from __future__ import annotations

from xraytune.config.settings import DataSettings
from xraytune.data.index import ImageIndex
from xraytune.records import Progress, ignore_progress


def read_pairs(settings: DataSettings, *, on_progress: Progress = ignore_progress) -> ImageIndex:
    """Read the pairs of a data folder."""
    raise NotImplementedError
