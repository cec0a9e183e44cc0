"""A new study for each test."""

from pathlib import Path

import pytest

from tests.study.studies import CPU, two_images, write_space
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """A new study of `SPACE`."""
    folder = StudyFolder(tmp_path / "studies/small")
    create_study(folder, write_space(tmp_path), two_images(), CPU)
    return folder
