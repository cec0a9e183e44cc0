"""`export`: its choice, its file and its errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.confirm.verdicts import write_verdict
from tests.in_process import CPU
from tests.model.conftest import FAILED, PRUNED, Lab
from tests.study.studies import no_gan
from xraytune.base.errors import StudyError, TrialError
from xraytune.base.files import append_jsonl
from xraytune.base.records import TrialResult
from xraytune.model.export import describe_benefit, export, trial_to_export
from xraytune.search.trials import SearchTrials
from xraytune.space.load import load_space
from xraytune.space.settings import ExportedFrom
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.start import create_study
from xraytune.study.trial import OpenTrial

Made = Callable[..., StudyFolder]


@pytest.fixture
def made(lab: Lab, tmp_path: Path) -> Made:
    """`made(scores, *overrides)` returns a study whose trials ended with these scores.

    They are on val-A and val-B. Only the first trial has GAN images.
    """

    def make(scores: list[tuple[float, float]], *overrides: str) -> StudyFolder:
        folder = StudyFolder(tmp_path / "studies/made")
        space = load_space(
            lab.path / "space.yaml", [f"budget.trials={len(scores) + 1}", *overrides]
        )
        create_study(folder, space, StudyFolder(lab.study).prepared(), CPU)
        loop = SearchTrials(folder, space, no_gan)
        for value, val_b_score in scores:
            suggestion = loop.next_trial()
            assert isinstance(suggestion, OpenTrial)
            result = TrialResult(
                value=value, val_b_score=val_b_score, best_epoch=1, epochs=1, threshold=0.5
            )
            loop.on_result(suggestion.number, result)
        return folder

    return make


@pytest.mark.parametrize(
    ("scores", "exported"),
    [
        ([(0.9, 0.7), (0.8, 0.8), (0.99, 0.6), (0.85, 0.8)], 1),
        ([(0.9, 0.805), (0.99, 0.79), (0.8, 0.8)], 2),
        ([(0.9, 0.805), (0.9, 0.79)], 0),
    ],
)
def test_without_a_confirmation_val_b_decides(
    made: Made, tmp_path: Path, scores: list[tuple[float, float]], exported: int
) -> None:
    """The simplest mix is exported whose score is within .01 of the best."""
    study = made(scores).path

    chosen = export(study, out=tmp_path / "best.yaml")

    assert (chosen.trial, chosen.val_b_score) == (exported, scores[exported][1])
    assert trial_to_export(StudyFolder(study)) == (exported, chosen.reason)
    assert chosen.sentence in (tmp_path / "best.yaml").read_text()


@pytest.mark.parametrize(
    ("word", "gan", "none", "exported"),
    [
        ("no_better", 0.905, 0.9, 1),
        ("undecided", 0.92, 0.9, 0),
        ("helps", 0.905, 0.9, 0),
    ],
)
def test_a_confirmation_decides_against_val_b(
    made: Made, tmp_path: Path, word: str, gan: float, none: float, exported: int
) -> None:
    """Its verdict counts before its scores; `none` is that of trials without extra images."""
    study = made([(0.9, 0.99), (0.8, 0.8)] if exported else [(0.9, 0.8), (0.8, 0.99)]).path
    write_verdict(study, {0: word}, scores={"gan": gan, "none": none, "duplicate": 0.7})

    chosen = export(study, out=tmp_path / "best.yaml")

    assert chosen.trial == exported
    assert chosen.synthetic.startswith("confirmed") == (word == "helps")


def test_exported_file_contains_trial_and_origin(private: Lab, tmp_path: Path) -> None:
    """This study was moved, with its images."""
    out = tmp_path / "elsewhere/trial.yaml"

    export(private.study, out=out, trial=0)

    experiment = load_space(out).experiment()
    assert experiment.parameters == StudyFolder(private.study).experiment(0).parameters
    assert experiment.settings.data.path == private.xrays
    train = StudyFolder(private.study).prepared().side("train")
    assert experiment.settings.exported_from == ExportedFrom(
        study=private.study, trial=0, images=len(train)
    )
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    ("word", "exploratory", "said"),
    [
        (None, (), "not confirmed: xraytune confirm has not"),
        ("hurts", (), "refuted"),
        ("helps", ("accessed before",), "not confirmed: the verdict of xraytune confirm is"),
    ],
)
def test_unconfirmed_images_are_reported(
    made: Made, tmp_path: Path, word: str | None, exploratory: tuple[str, ...], said: str
) -> None:
    study = made([(0.9, 0.9), (0.8, 0.7)]).path
    out = tmp_path / "best.yaml"
    if word:
        write_verdict(study, {0: word}, exploratory=exploratory)

    assert export(study, out=out, trial=0).synthetic.startswith(said)


@pytest.mark.parametrize(
    ("changes", "is_confirmed"),
    [
        ({}, True),
        ({"lr": 0.125}, True),
        ({"gan.image_size": 128}, True),
        ({"gan.steps": 3}, False),
        ({"synthetic_ratio": 4.0}, False),
        ({"backbone": "resnet18"}, False),
    ],
)
def test_only_the_mix_that_was_compared_is_confirmed(
    made: Made, changes: dict[str, Any], is_confirmed: bool
) -> None:
    """Whatever a final training changes besides it; a generator may have its size of images."""
    study = made([(0.9, 0.9)])
    write_verdict(study.path, {0: "helps"})
    trained = study.experiment(0).parameters.with_values(changes)

    benefit = describe_benefit(study, 0, trained)

    assert benefit.startswith("confirmed") == is_confirmed


def test_the_benefit_is_in_the_metric_of_the_verdict(made: Made) -> None:
    study = made([(0.9, 0.9)], "objective.metric=val_auprc")
    write_verdict(study.path, {0: "hurts"})

    benefit = describe_benefit(study, 0, study.experiment(0).parameters)

    assert benefit.endswith(" AUROC")


def test_a_stopped_trial_that_a_confirmation_finished_is_exported(
    made: Made, tmp_path: Path
) -> None:
    """If ASHA pruned all trials with synthetic images, `confirm` completes the longest ones."""
    folder = made([(0.9, 0.7)])
    journal = Journal(folder.journal_path, folder.space(), is_writable=True)
    suggestion = journal.ask()
    journal.report(suggestion.number, 1, 0.5)
    journal.tell(suggestion.number, "pruned", 0.5, {})
    run = {
        "number": 0,
        "label": f"#{suggestion.number} to its end",
        "status": "complete",
        "value": 0.75,
        "val_b_score": 0.625,
    }
    append_jsonl(folder.path / "confirm/top_up/runs.jsonl", {"version": 1, **run}, is_chained=True)
    write_verdict(folder.path, {suggestion.number: "helps"})

    exported = export(folder.path, out=tmp_path / "best.yaml")

    assert (exported.trial, exported.val_score, exported.val_b_score) == (
        suggestion.number,
        0.75,
        0.625,
    )


@pytest.mark.parametrize(
    ("trial", "reason"),
    [(PRUNED, "stopped by ASHA"), (FAILED, "not finite"), (77, "has not ended")],
)
def test_only_a_complete_trial_can_be_chosen(
    lab: Lab, made: Made, tmp_path: Path, trial: int, reason: str
) -> None:
    with pytest.raises(
        StudyError, match=f"(?s)trial #{trial}: .*{reason}.*choose a completed one: #"
    ):
        export(lab.study, out=tmp_path / "best.yaml", trial=trial)

    with pytest.raises(TrialError, match="no trial has completed"):
        export(made([]).path, out=tmp_path / "best.yaml")
