"""A new study for each test."""

from pathlib import Path

import pytest

from tests.study.studies import new_study
from xraytune.study.folder import StudyFolder


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """A new study of `SPACE`."""
    return new_study(tmp_path)
