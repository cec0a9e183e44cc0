"""Each command proposes the next one, with the options that it needs."""

import shlex
from pathlib import Path

import pytest

from tests.confirm.verdicts import write_verdict
from tests.study.studies import CPU, direct, ended, epoch, two_images, write_space
from xraytune.cli.confirm import show_verdict
from xraytune.cli.search import show_search
from xraytune.confirm.record import read_verdict
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.status import status

pytestmark = pytest.mark.slow


def test_a_search_proposes_confirm_or_export_and_confirm_the_report_and_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = StudyFolder(tmp_path / "studies" / "my study")
    points = (
        "trials=1",
        "points_to_evaluate=[{source: gan, synthetic_ratio: 0.5, gan.steps: 100, lr: 1e-3}]",
    )
    overrides = ("scheduler.name=none", f"budget.{points[0]}", points[1])
    create_study(folder, write_space(tmp_path, *overrides), two_images(), CPU)
    loop = direct(folder, *overrides)
    loop.next_trial()
    loop.on_result(0, epoch(1, 0.75))
    loop.on_result(0, ended(0.75, epochs=1))
    write_verdict(folder.path, {0: "no_better"})

    show_search(status(folder.path))
    after_search = proposed_in(capsys.readouterr().out)
    verdict = read_verdict(folder.path / "confirm")
    assert verdict is not None
    show_verdict(verdict)
    after_confirm = proposed_in(capsys.readouterr().out)

    study = "studies/my study"
    assert after_search == [["confirm", study], ["export", study, "-o", "best.yaml"]]
    assert [words[0] for words in after_confirm] == ["report", "export"]


def proposed_in(printed: str) -> list[list[str]]:
    lines = [line.partition(": xraytune ")[2] for line in printed.splitlines()]
    return [shlex.split(line) for line in lines if line]
