"""The test-set access log next to the studies: one for all, written by several processes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xraytune.base.files import read_jsonl
from xraytune.study.access_log import (
    TEST_ACCESS_FILE,
    accesses,
    folders_with_logs,
    log_test_access,
)
from xraytune.study.folder import StudyFolder

WRITE = """
import sys
from pathlib import Path
from typing import Any
from xraytune.study.access_log import folders_with_logs, log_test_access
study = Path(sys.argv[1])
for number in range(15):
    about = {"contents": ["a"], "reason": str(number), "study": study.name}
    log_test_access(*folders_with_logs(study), command="confirm", **about)
"""


def opened(study: Path, *contents: str) -> None:
    log_test_access(
        *folders_with_logs(study), command="confirm", contents=contents, reason="", study=study.name
    )


def test_access_counts_once_per_study_if_it_shares_an_image(study: StudyFolder) -> None:
    opened(study.path, "same")
    opened(study.path.with_name("removed since"), "more", "same")
    opened(study.path, "another")

    for one in (study.path, study.path.with_name("new")):
        found = accesses(one, ["same", "further"])
        assert [row["study"] for row in found] == ["small", "removed since"]


def test_a_kill_between_two_logs_leaves_an_access_that_the_next_call_completes(
    study: StudyFolder,
) -> None:
    """The log next to the studies is what remains if the study is removed."""
    about: dict[str, Any] = {"command": "confirm", "contents": ["same"], "reason": "", "id": "1"}
    log_test_access(study.path, **about)

    log_test_access(*folders_with_logs(study.path), **about)

    for folder in folders_with_logs(study.path):
        assert [row["id"] for row in read_jsonl(folder / TEST_ACCESS_FILE)] == ["1"]


def test_moved_study_keeps_its_test_accesses(study: StudyFolder, tmp_path: Path) -> None:
    opened(study.path, "same")
    (tmp_path / "elsewhere").mkdir()
    moved = study.path.rename(tmp_path / "elsewhere/small")

    assert [row["study"] for row in accesses(moved.with_name("new"), ["same"])] == ["small"]


@pytest.mark.slow
def test_concurrent_writers_lose_no_test_access(study: StudyFolder) -> None:
    studies = [study.path.with_name(f"study{number}") for number in range(3)]
    log = study.path.parent / TEST_ACCESS_FILE
    log.write_text('{"version": 1, "ti')

    processes = [subprocess.Popen([sys.executable, "-c", WRITE, str(one)]) for one in studies]

    assert [process.wait() for process in processes] == [0] * 3
    assert len(read_jsonl(log, is_chained=True)) == 3 * 15
    assert len(accesses(study.path, ["a"])) == 3 * 15
