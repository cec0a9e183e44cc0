"""Whose images the makers of extra images have seen."""

import os
from pathlib import Path

import pytest

from xraytune.base.errors import DataError
from xraytune.space.settings import Parameters
from xraytune.synth.seen import seen_images


def test_a_pipe_in_place_of_the_list_of_seen_images_is_refused_without_reading_it(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "seen.txt")
    folder = {"path": tmp_path, "seen": tmp_path / "seen.txt"}

    with pytest.raises(DataError, match="not a file"):
        seen_images(Parameters.model_validate({"source": "folder", "folder": folder}))
