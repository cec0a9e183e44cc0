"""What a confirmation trains, and in which order. The results of runs are scripted."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from tests.study.studies import CPU, ended, epoch, two_images, write_space
from xraytune.base.files import read_jsonl, write_json
from xraytune.confirm.arms import Plan
from xraytune.confirm.plan import make_plan
from xraytune.confirm.run_list import OpenStudy, train_replicates
from xraytune.confirm.sealed import SealedTest
from xraytune.data.images import ImageTable
from xraytune.search.asha import Rungs
from xraytune.search.callbacks import NO_CALLBACKS, Callbacks
from xraytune.search.loop import TrialLoop
from xraytune.search.ray.runner import Runner
from xraytune.space.data_settings import DataSettings
from xraytune.space.parameters import Parameters
from xraytune.study.folder import StudyFolder, environment
from xraytune.study.row import TrialRow
from xraytune.study.trial import OpenTrial, TrialMessage

REAL = TrialRow(number=0, status="complete", parameters=Parameters(lr=1e-3), val_b_score=0.8)
GAN = TrialRow(
    number=1, status="complete", parameters=Parameters(source="gan", lr=4e-3), val_b_score=0.9
)
STOPPED = tuple(
    TrialRow(
        number=number,
        status="pruned",
        parameters=Parameters(source="gan", lr=lr),
        epochs=9 - number,
        value=0.9,
    )
    for number, lr in enumerate((1e-3, 2e-3, 3e-3), start=1)
)
SMALL = "confirm={replicates: 2, controls: {matched: [none], tuned: [real_only]}}"

SEALED = SealedTest(
    data=DataSettings(path=Path("xrays")),
    images=ImageTable(),
    kind="folder",
    name="the test folder",
    prepared=two_images(),
)

Says = Callable[[StudyFolder, int], Iterable[TrialMessage]]
Report = tuple[int, int, float, str]


class Told:
    """A `Runner` that trains nothing; `says` returns the messages of each run."""

    address = None

    def __init__(self, says: Says) -> None:
        self._says = says

    def run(self, make_loop: Callable[[Callbacks], TrialLoop]) -> None:
        work = make_loop(NO_CALLBACKS)
        while isinstance(asked := work.next_trial(), OpenTrial):
            for message in self._says(work.study_folder, asked.number):
                if not work.on_result(asked.number, message):
                    break


def well(folder: StudyFolder, number: int) -> list[TrialMessage]:
    del folder, number
    return [epoch(1, 0.9), ended(0.9)]


def each(*values: float) -> Says:
    """Top-up trials with these AUROCs, by number; replicates succeed."""

    def says(folder: StudyFolder, number: int) -> list[TrialMessage]:
        if folder.path.name != "top_up":
            return well(folder, number)
        return [*(epoch(place, values[number]) for place in range(1, 10)), ended(values[number])]

    return says


def open_study(root: Path, says: Says = well) -> OpenStudy:
    space = write_space(root, SMALL)
    folder = root / "studies/small"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "environment.json", environment(CPU))
    return OpenStudy(
        study_folder=StudyFolder(folder),
        space=space,
        prepared=two_images(),
        compute=CPU,
        cache=root / "cache",
        searched=(),
        rungs=Rungs(space.settings.scheduler, max_epochs=space.settings.budget.max_epochs),
        runner=cast(Runner, Told(says)),
        callbacks=NO_CALLBACKS,
    )


def train(
    study: OpenStudy,
    *complete: TrialRow,
    stopped: tuple[TrialRow, ...] = (),
    reports: Iterable[Report] = (),
) -> Plan:
    settings = study.settings
    rungs = Rungs(settings.scheduler, max_epochs=settings.budget.max_epochs, reports=reports)
    study = replace(study, searched=(*complete, *stopped), rungs=rungs)
    plan = make_plan(study, 3, replicates=2, sealed=SEALED)
    train_replicates(study, plan)
    return plan


def tuned(plan: Plan) -> list[str]:
    return [arm.trial_label for arm in plan.arms if arm.role == "tuned"]


def ends(study: OpenStudy) -> list[tuple[int, str, str]]:
    rows = read_jsonl(study.runs_folder.path / "top_up/runs.jsonl")
    return [(row["number"], row["label"], row["status"]) for row in rows]


def no_run(folder: StudyFolder, number: int) -> list[TrialMessage]:
    pytest.fail(f"run {number} in {folder.path}")


def test_if_asha_prunes_a_whole_arm_its_furthest_trial_is_trained_to_the_end(
    tmp_path: Path,
) -> None:
    """As finalists are; top-up 1 is pruned at the second rung, the others at the first."""
    asked = open_study(tmp_path, says=each(0.4, 0.8, 0.3, 0.2, 0.7))

    plan = train(asked, GAN, stopped=STOPPED, reports=[(0, 1, 0.5, ""), (0, 3, 0.9, "")])

    assert ends(asked)[-1] == (4, "top-up 1 to its end", "complete")
    assert [status for _, _, status in ends(asked)[:-1]] == ["pruned"] * 4
    assert tuned(plan) == ["top-up 1"]
    assert plan.notes == (
        "ASHA pruned all trials of the arm real_only; confirm trained top-up 1 to the end",
    )


def test_a_controls_arm_gets_as_many_trials_as_the_gan_even_after_a_kill(
    tmp_path: Path,
) -> None:
    """The search had one complete and three pruned GAN trials, and one trial of `real_only`."""
    values = (0.85, 0.4, 0.95)
    statuses = [
        (number, f"top-up {number} real_only", status)
        for number, status in enumerate(("complete", "pruned", "complete"))
    ]

    def killed(folder: StudyFolder, number: int) -> Iterable[TrialMessage]:
        yield epoch(1, values[number])
        if number == 2:
            raise KeyboardInterrupt
        yield from each(*values)(folder, number)

    folders = [tmp_path / name for name in ("straight", "broken")]
    for folder in folders:
        folder.mkdir()
    straight, broken = (open_study(folder, says=each(*values)) for folder in folders)
    reports = [(0, 1, 0.8, ""), (1, 1, 0.9, ""), (2, 1, 0.1, "")]
    train_all = partial(train, stopped=STOPPED, reports=reports)
    with pytest.raises(KeyboardInterrupt):
        train_all(open_study(folders[1], says=killed), REAL, GAN)

    plans = [train_all(one, REAL, GAN) for one in (straight, broken)]

    assert ends(broken) == ends(straight) == statuses
    assert plans[0] == plans[1]
    assert tuned(plans[0]) == ["top-up 2"]
    assert train_all(open_study(folders[1], says=no_run), REAL, GAN) == plans[0]
