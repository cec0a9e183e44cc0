"""The `clean` command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from typer.testing import Result

from tests.study.studies import CPU, two_images, write_space
from xraytune.study.folder import StudyFolder, locked
from xraytune.study.start import create_study

Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "studies" / "small")
    create_study(folder, write_space(tmp_path), two_images(), CPU)
    return folder


def leave_scratch(study: StudyFolder) -> Path:
    (study.path / ".tune").mkdir()
    (study.path / ".tune" / "state").write_bytes(b"x" * 2**20)
    return study.path / ".tune"


@pytest.mark.slow
def test_clean_prints_freed_space(run: Run, study: StudyFolder) -> None:
    scratch = leave_scratch(study)

    would = run("clean", study.path, "--dry-run")
    still_there = scratch.exists()
    freed = run("clean", study.path)
    nothing = run("clean", study.path)
    leave_scratch(study)
    answer = json.loads(run("clean", study.path, "--json").stdout)

    assert still_there
    assert would.stdout.startswith("would free 1.0 MiB")
    assert freed.stdout.startswith("freed 1.0 MiB")
    assert ".tune" in freed.stdout
    assert nothing.stdout.strip() == "nothing to remove"
    assert not scratch.exists()
    assert (answer["removed"], answer["is_dry_run"], answer["note"]) == ({str(scratch): 2**20}, False, "")


@pytest.mark.slow
def test_a_running_study_is_refused_with_its_exit_code(run: Run, study: StudyFolder) -> None:
    with locked(study):
        refused = run("clean", study.path)

    assert (refused.exit_code, refused.stdout) == (5, "")
    assert "the study is being searched by process" in refused.stderr
