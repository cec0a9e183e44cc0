"""Each command proposes the next one, with the options that it needs."""

import shlex
from pathlib import Path

import pytest

from tests.confirm.verdicts import write_verdict
from tests.docs.commands import TINY
from tests.in_process import command
from tests.study.studies import CPU, direct, ended, epoch, two_images, write_space
from xraytune.cli.confirm import show_verdict
from xraytune.cli.search import show_search
from xraytune.confirm.record import read_verdict
from xraytune.data.phantom import draw_phantoms
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.status import status

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw_phantoms(Path("xrays"), patients=40, seed=1, image_size_px=32)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_an_inspection_proposes_a_headroom_with_the_same_classes() -> None:
    printed = command("data", "inspect", "xrays", "--classes", "auto").stdout

    proposed = "next: xraytune headroom --space gan_ratio_cpu --data xrays --set data.classes=auto"
    assert printed.splitlines()[-1] == proposed


@pytest.mark.usefixtures("here")
def test_a_trained_generator_is_proposed_to_the_search_over_it() -> None:
    used = ("data.", "gan.", "quality.", "backbone", "weights", "trainable")
    overrides = [word for line in TINY if line.startswith(used) for word in ("--set", line)]

    done = command(
        "generator", "train", "--space", "gan_ratio_cpu", "--data", "xrays", *overrides, "-o", "gan"
    )

    search = (
        "next: xraytune search --space other_hospital_cpu --data xrays --set generator.path=gan"
    )
    assert done.stdout.splitlines()[-1:] == [search], done.stderr


def test_a_search_proposes_confirm_or_export_and_confirm_the_report_and_export(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder(here / "studies" / "my study")
    points = (
        "trials=1",
        "points_to_evaluate=[{source: gan, synthetic_ratio: 0.5, gan.steps: 100, lr: 1e-3}]",
    )
    overrides = ("scheduler.name=none", f"budget.{points[0]}", points[1])
    create_study(folder, write_space(here, *overrides), two_images(), CPU)
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
