"""Each source of extra images has its class."""

import os
from pathlib import Path

import pytest

from xraytune.base.errors import DataError
from xraytune.space.extensions import SOURCES
from xraytune.space.parameters import Parameters
from xraytune.space.source_settings import FolderSettings
from xraytune.synth.sources.registry import SOURCE_CLASSES, source_of


def test_a_pipe_in_place_of_the_list_of_seen_images_is_refused_without_reading_it(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "seen.txt")
    folder = FolderSettings(path=tmp_path, seen=tmp_path / "seen.txt")
    source = source_of(Parameters(source="folder", folder=folder))

    with pytest.raises(DataError, match="not a file"):
        source.seen_images_sha256()


def test_each_source_of_a_space_has_its_class_and_colour() -> None:
    assert {*SOURCE_CLASSES} == {*SOURCES.built_in}
    assert len({source.colour for source in SOURCE_CLASSES.values()}) == len(SOURCE_CLASSES)
