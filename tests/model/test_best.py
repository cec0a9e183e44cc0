"""`export`: its choice, its file and its errors."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confirm.verdicts import write_verdict
from tests.in_process import CPU, command
from tests.model.conftest import FAILED, PRUNED, WITHOUT_EPOCH, CopyLab, Lab
from tests.study.studies import DirectSearch
from xraytune.base.errors import ConfigError, StudyError, TrialError
from xraytune.base.files import append_jsonl, write_array
from xraytune.base.records import TrialResult
from xraytune.confirm.arms import Arm, Plan, write_plan
from xraytune.model.best import export
from xraytune.search.messages import TrialEnded
from xraytune.space.load import load_space
from xraytune.space.settings import ExportedFrom, Parameters
from xraytune.study.folder import StudyFolder
from xraytune.study.journal import Journal
from xraytune.study.start import create_study
from xraytune.study.suggestion import TrialSuggestion

pytestmark = pytest.mark.slow


def study_of(folder: StudyFolder, lab: Lab, scores: list[tuple[float, float]]) -> None:
    """A study whose trials ended with these AUROCs on val-A and val-B; the first has GAN images, the others none."""
    space = load_space(lab.path / "space.yaml", [f"budget.trials={len(scores) + 1}"])
    create_study(folder, space, StudyFolder(lab.study).prepared(), CPU)
    loop = DirectSearch(folder, space)
    for value, val_b_score in scores:
        suggestion = loop.next_trial()
        assert isinstance(suggestion, TrialSuggestion)
        result = TrialResult(value=value, val_b_score=val_b_score, best_epoch=1, epochs=1, threshold=0.5, seconds=1.0)
        loop.on_result(suggestion.number, TrialEnded(result=result))


def test_the_best_on_val_b_is_exported_the_earliest_of_equals(lab: Lab, tmp_path: Path) -> None:
    """Val-A guided the search, so its best trial may be best by chance."""
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.7), (0.8, 0.8), (0.99, 0.6), (0.85, 0.8)])

    exported = export(folder.path, out=tmp_path / "best.yaml")

    assert (exported.trial, exported.val_score, exported.val_b_score) == (1, 0.8, 0.8)


@pytest.mark.parametrize(("wrong", "exported"), [(1, "classical"), (6, "classical+gan")])
def test_a_simpler_mix_is_exported_if_it_is_within_one_standard_error(
    lab: Lab, tmp_path: Path, wrong: int, exported: str
) -> None:
    """The GAN trial ranks val-B perfectly; the trial without synthetic images ranks some positive images too low."""
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 1.0), (0.9, 0.9)])
    labels = folder.prepared().side("val_b").labels
    for number, low_count in enumerate((0, wrong)):
        positive = np.where(labels == 1, 0.9, 0.1)
        positive[np.flatnonzero(labels)[:low_count]] = 0.0
        write_array(folder.results_path(number, "val_b"), np.stack([1 - positive, positive], axis=1), is_recorded=True)

    best = export(folder.path, out=tmp_path / "best.yaml")

    assert best.arm == exported
    is_simpler = exported == "classical"
    assert ("within one standard error" in best.reason, "--trial 0" in best.advice) == (is_simpler, is_simpler)


@pytest.mark.parametrize("word", ["hurts", "no_better"])
def test_a_source_without_benefit_in_confirm_is_not_exported(lab: Lab, tmp_path: Path, word: str) -> None:
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.9), (0.8, 0.7)])
    write_verdict(folder.path, {0: word})

    assert export(folder.path, out=tmp_path / "best.yaml").arm == "classical"


def test_of_equals_on_val_b_the_simpler_arm_is_exported(lab: Lab, tmp_path: Path) -> None:
    """On a few images many trials have an AUROC of 1; then the trial's number says nothing."""
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 1.0)] * 3)

    exported = export(folder.path, out=tmp_path / "best.yaml")

    rows = Journal(folder.journal_path, folder.space(), writable=False).rows()
    assert rows[0].arm == "classical+gan"
    assert exported.arm == "classical"


def test_exported_file_contains_trial_and_origin(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "trial.yaml"

    exported = export(lab.study, out=out, trial=0)

    text = out.read_text(encoding="utf-8")
    experiment = load_space(out).experiment()
    assert experiment.parameters == StudyFolder(lab.study).experiment(0).parameters
    assert experiment.settings.data.path == lab.xrays
    untested = "not confirmed: xraytune confirm has not compared the mix with its controls"
    train = StudyFolder(lab.study).prepared().side("train")
    assert experiment.settings.exported_from == ExportedFrom(
        study=lab.study, trial=0, synthetic=untested, images=len(train.rows), patients=len({*train.patients})
    )
    assert "# Trial 0 of study mix, arm classical+gan: selected by its number." in text
    assert f"{exported.val_b_score:.4f} on val-B" in text
    assert "xraytune train --config trial.yaml -o model" in text
    assert str(tmp_path) not in text


def test_printed_commands_are_quoted(lab: Lab, tmp_path: Path) -> None:
    study, out = tmp_path / "a #1", tmp_path / "my best.yaml"
    study.symlink_to(lab.study)

    exported = export(study, out=out, trial=0)

    assert shlex.split(exported.command, comments=True)[2:] == ["--config", str(out), "-o", "model"]
    assert shlex.split(exported.advice, comments=True)[2] == str(study)
    assert "--config 'my best.yaml' -o model" in out.read_text(encoding="utf-8")


def test_unconfirmed_synthetic_images_are_reported_with_a_simpler_arm(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "best.yaml"

    exported = export(lab.study, out=out, trial=0)

    assert exported.arm == "classical+gan"
    assert exported.synthetic.startswith("not confirmed: xraytune confirm has not compared")
    assert exported.advice.endswith("--arm classical -o classical.yaml"), "the one that completed"
    assert f"# The benefit of its synthetic images is {exported.synthetic}." in out.read_text(encoding="utf-8")
    shown = " ".join(command("export", lab.study, "-o", tmp_path / "same.yaml", "--trial", 0).stdout.split())
    assert "for a configuration without them: xraytune export" in shown


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hurts", "refuted"),
        ("no_better", "not confirmed: the mix does not improve AUROC"),
        ("undecided", "not confirmed: the result is inconclusive"),
    ],
)
def test_the_verdict_of_a_confirm_is_exported(copy_lab: CopyLab, tmp_path: Path, word: str, said: str) -> None:
    lab = copy_lab()
    write_verdict(lab.study, {0: word})

    exported = export(lab.study, out=tmp_path / "best.yaml", trial=0)

    assert exported.synthetic.startswith(said)
    assert exported.advice


def test_helpful_mix_is_exported_over_higher_scoring_trial(lab: Lab, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.7), (0.8, 0.8)])
    write_verdict(folder.path, {0: "helps"})

    exported = export(folder.path, out=tmp_path / "best.yaml")

    assert (exported.trial, exported.synthetic, exported.advice) == (0, "confirmed: the mix beats all controls", "")


def test_the_file_gives_the_reason_for_its_trial(lab: Lab, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.7), (0.8, 0.8)])

    def head(**suggestion: Any) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.yaml"
        export(folder.path, out=path, **suggestion)
        return path.read_text(encoding="utf-8").partition("\n")[0]

    assert head().endswith("Trial 1 of study made, arm classical: the best on val-B.")
    assert head(arm="classical").endswith("the best of its arm on val-B.")
    write_verdict(folder.path, {0: "helps"})
    assert head().endswith("Trial 0 of study made, arm classical+gan: the mix that `confirm` found to help.")


def test_no_advice_without_a_real_only_trial(lab: Lab, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.7)])

    assert export(folder.path, out=tmp_path / "best.yaml").advice == ""


def test_the_best_of_an_arm_can_be_exported(lab: Lab, tmp_path: Path) -> None:
    exported = export(lab.study, out=tmp_path / "best.yaml", arm="classical+gan")

    assert exported.trial == 0
    with pytest.raises(
        StudyError, match=r"no trial of arm real_only has completed\n.*choose one of: classical, classical\+gan"
    ):
        export(lab.study, out=tmp_path / "other.yaml", arm="real_only")
    with pytest.raises(ConfigError, match="both a trial and an arm"):
        export(lab.study, out=tmp_path / "other.yaml", arm="real_only", trial=0)


def test_after_a_confirm_an_arm_is_its_tuned_control(copy_lab: CopyLab, tmp_path: Path) -> None:
    """Also one that is not a trial of the search."""
    lab = copy_lab()
    parameters = Parameters(backbone="small_cnn", weights="none", lr=0.004)
    control = Arm(name="tuned real_only top-up 2", role="tuned", trial="top-up 2", parameters=parameters)
    write_plan(Plan().grown([control], 1, 1), lab.study / "confirm")

    exported = export(lab.study, out=tmp_path / "best.yaml", arm="real_only")

    assert (exported.trial, exported.synthetic) == (None, "")
    assert load_space(tmp_path / "best.yaml").experiment().parameters == parameters


def test_after_a_confirm_that_finished_a_pruned_control_its_arm_is_that_trial(lab: Lab, tmp_path: Path) -> None:
    """If ASHA pruned a whole arm, a confirmation completes its longest trial."""
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [(0.9, 0.7)])
    journal = Journal(folder.journal_path, folder.space(), writable=True)
    suggestion = journal.ask(folder.space().points())
    journal.report(suggestion.number, 1, 0.5)
    journal.tell(suggestion.number, "pruned", 0.5, {})
    name, arm = f"#{suggestion.number}", suggestion.parameters.arm
    control = Arm(name=f"tuned {arm} {name}", role="tuned", trial=name, parameters=suggestion.parameters)
    write_plan(Plan().grown([control], 1, 1), folder.path / "confirm")
    run = {"number": 0, "label": f"{name} to its end", "status": "complete", "value": 0.75, "val_b_score": 0.625}
    append_jsonl(folder.path / "confirm" / "top_up" / "runs.jsonl", {"version": 1, **run})

    exported = export(folder.path, out=tmp_path / "best.yaml", arm=arm)

    assert (exported.trial, exported.val_score, exported.val_b_score) == (suggestion.number, 0.75, 0.625)


@pytest.mark.parametrize(
    ("trial", "reason"),
    [(PRUNED, "stopped by ASHA"), (FAILED, "not finite"), (WITHOUT_EPOCH, "has not ended"), (77, "does not exist")],
)
def test_only_a_complete_trial_can_be_chosen(lab: Lab, tmp_path: Path, trial: int, reason: str) -> None:
    with pytest.raises(StudyError, match=f"(?s)trial {trial}: .*{reason}.*choose a completed one: 0"):
        export(lab.study, out=tmp_path / "best.yaml", trial=trial)

    assert not (tmp_path / "best.yaml").exists()


def test_export_overwrites_only_identical_file(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "best.yaml"
    first = export(lab.study, out=out)

    assert export(lab.study, out=out) == first
    out.write_text("mine\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the file already exists with different content"):
        export(lab.study, out=out)

    assert out.read_text(encoding="utf-8") == "mine\n"


def test_a_study_without_a_complete_trial_has_no_best(lab: Lab, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "made")
    study_of(folder, lab, [])

    with pytest.raises(TrialError, match="no trial has completed"):
        export(folder.path, out=tmp_path / "best.yaml")


def test_a_study_that_moved_with_its_images_is_exported_from_its_place(copy_lab: CopyLab) -> None:
    lab = copy_lab()

    export(lab.study, out=lab.path / "moved.yaml")

    assert load_space(lab.path / "moved.yaml").experiment().settings.data.path == lab.xrays
