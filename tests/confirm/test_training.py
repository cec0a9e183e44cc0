"""What a confirm trains, and in which order; the tests say what its runs would report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from tests.confirm.test_arms import parameters
from tests.search.studies import CPU, ended, two_images, write_space
from xraytune.confirm.arms import Candidate, Stopped
from xraytune.confirm.plan import Plan
from xraytune.confirm.training import Quiet, Training
from xraytune.errors import StudyError, TrialError
from xraytune.search.runner import Runner
from xraytune.search.study import StudyFolder
from xraytune.search.work import Asked, Message, Work

REAL = Candidate(name="#0", parameters=parameters("none", lr=1e-3), val_b_auroc=0.8)
GAN = Candidate(name="#1", parameters=parameters("gan", lr=1e-3), val_b_auroc=0.9)
STOPPED = tuple(
    Stopped(name=f"#{number}", parameters=parameters("gan", lr=lr), epochs=9 - number, val_auroc=0.9)
    for number, lr in enumerate((1e-3, 2e-3, 3e-3), start=1)
)
SMALL = "confirm={gan_seeds: 2, classifier_seeds: 1, controls: {matched: [none], tuned: [real_only]}}"

Says = Callable[[StudyFolder, int], Message]


class Told:
    """A `Runner` that trains nothing: `says` tells what each run reports."""

    def __init__(self, says: Says) -> None:
        self._says = says

    def run(self, work: Work, folder: StudyFolder, **_: Any) -> None:
        while isinstance(asked := work.next(), Asked):
            work.hear(asked.number, self._says(folder, asked.number))


def well(folder: StudyFolder, number: int) -> Message:
    del folder, number
    return ended(0.9)


def training(root: Path, *overrides: str, says: Says = well) -> Training:
    return Training(
        folder=StudyFolder(root / "studies" / "small"),
        space=write_space(root, SMALL, *overrides),
        prepared=two_images(),
        compute=CPU,
        cache=root / "cache",
        runner=cast(Runner, Told(says)),
        observer=Quiet(),
    )


def train(training: Training, *trials: Candidate, stopped: tuple[Stopped, ...] = (), finalists: int = 3) -> Plan:
    return training.train(trials, stopped, finalists=finalists, gan_seeds=2, earlier_openings=0)


@pytest.mark.slow
def test_trials_that_other_finalists_needed_lend_their_results_to_no_control(tmp_path: Path) -> None:
    """Three trials were finished, then somebody asked for one finalist: run 1 is no control's."""

    def interrupted(folder: StudyFolder, number: int) -> Message:
        if number == len(STOPPED):
            raise KeyboardInterrupt
        return well(folder, number)

    with pytest.raises(KeyboardInterrupt):
        train(training(tmp_path, says=interrupted), stopped=STOPPED)

    with pytest.raises(
        StudyError, match=r"0001/config.json: this run was begun with other settings(.|\n)*move top_up/"
    ):
        train(training(tmp_path), stopped=STOPPED, finalists=1)

    assert [arm.trial for arm in train(training(tmp_path), stopped=STOPPED).arms if arm.role == "finalist"]


@pytest.mark.slow
def test_a_top_up_that_failed_is_tried_again_after_trials_that_were_finished(tmp_path: Path) -> None:
    def one_top_up_fails(folder: StudyFolder, number: int) -> Message:
        is_first_top_up = folder.path.name == "top_up" and number == len(STOPPED)
        return {"failed": "a cable was pulled", "cause": "settings"} if is_first_top_up else well(folder, number)

    with pytest.raises(TrialError, match="1 of 3 trials that tune the controls failed"):
        train(training(tmp_path, says=one_top_up_fails), stopped=STOPPED)

    assert train(training(tmp_path), stopped=STOPPED).runs


def test_a_finalist_without_any_control_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    controls = "confirm.controls={matched: [duplicate], tuned: []}"
    total = Candidate(name="#2", parameters=parameters("gan", lr=1e-3, matching="total"), val_b_auroc=0.9)
    asked = training(tmp_path, controls, says=lambda folder, number: pytest.fail(f"run {number} in {folder.path}"))

    with pytest.raises(StudyError, match="no control is left that #2 could be compared with"):
        train(asked, REAL, total)


@pytest.mark.parametrize(
    ("matched", "roles"),
    [("[none]", ["finalist", "matched", *["ratio"] * 4, "tuned"]), ("[duplicate]", ["finalist", "matched", "tuned"])],
)
def test_other_ratios_are_trained_only_where_their_gain_over_no_images_is_told(
    tmp_path: Path, matched: str, roles: list[str]
) -> None:
    plan = train(training(tmp_path, f"confirm.controls.matched={matched}"), REAL, GAN)

    assert [arm.role for arm in plan.arms] == roles
    assert len(plan.runs) == 2 * len(roles)
