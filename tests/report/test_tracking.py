"""A confirmation and a report as W&B runs of their own, read back from its offline files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.in_process import InProcess, one_thread
from tests.report.conftest import CopyStudy
from tests.tracking.offline_runs import OfflineRun, read_run, run_files
from xraytune.confirm import training
from xraytune.confirm.run import confirm
from xraytune.files import read_json
from xraytune.report.page import write_report
from xraytune.search.study import StudyFolder

TRACKING = "tracking: {wandb: {project: small, mode: offline}}"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # wandb's own


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without a login."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture
def study(copy_study: CopyStudy) -> Path:
    """A confirmed study, tracked offline from now on."""
    folder = copy_study()
    file = StudyFolder(folder).space_path
    changed = re.sub("^tracking: .*$", TRACKING, file.read_text("utf-8"), flags=re.MULTILINE)
    assert TRACKING in changed
    file.write_text(changed, "utf-8")
    return folder


def the_run(folder: Path) -> tuple[Path, OfflineRun]:
    (file,) = run_files(folder)
    return file.parent / "files", read_run(file)


def test_a_confirmation_is_a_run_with_verdict_scores_and_differences(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "Runner", InProcess)
    before = (study / "confirm" / "verdict.json").read_bytes()

    with one_thread():
        found = confirm(study)

    files, run = the_run(study / "confirm")
    assert (study / "confirm" / "verdict.json").read_bytes() == before
    assert (run.kind, run.name, run.exit_code) == ("confirm", "small confirm", 0)
    assert run.group == f"small {StudyFolder(study).identity()[:6]}"
    assert (run.summary["verdict"], run.summary["status"]) == (found.verdict, "complete")
    content = read_json(study / "confirm" / "verdict.json")
    (finalist,) = content["finalists"]
    assert run.summary["answer"] == content["answer"]
    assert run.summary[f"AUROC/{finalist['arm']}"] == finalist["score"]
    for one in finalist["comparisons"]:
        assert run.summary[f"AUROC/{one['control']}"] == one["control_score"]
        for name in ("difference", "low", "high"):
            assert run.summary[f"{name}/{finalist['arm']} - {one['control']}"] == one[name]
    (table,) = [json.loads(file.read_text("utf-8")) for file in files.glob("media/table/*.table.json")]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["control"] for row in rows] == [one["control"] for one in finalist["comparisons"]]
    assert [row["low"] for row in rows] == [one["low"] for one in finalist["comparisons"]]


def test_a_report_is_a_run_with_the_page_only_if_it_is_asked_for(study: Path) -> None:
    write_report(study)
    assert run_files(study) == []

    page = write_report(study, wandb=True)

    files, run = the_run(study)
    (sent,) = files.glob("media/html/*.html")
    assert sent.read_bytes() == page.read_bytes()
    assert (run.kind, run.name) == ("report", "small report")
    assert run.summary["verdict"] == read_json(study / "confirm" / "verdict.json")["verdict"]
