"""The study folder: one at a time, one space, one set of images."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.search.studies import two_images, write_space
from xraytune.errors import StudyError
from xraytune.search.study import StudyFolder, is_locked, locked, require_same_images, require_same_space
from xraytune.search.view import StudyWatcher


def test_another_space_is_refused_with_what_differs(study: StudyFolder, tmp_path: Path) -> None:
    other = write_space(tmp_path, "lr={min: 1e-4, max: 1e-2, distribution: log_uniform_values}")

    with pytest.raises(StudyError, match="another space") as refusal:
        require_same_space(study, other)

    assert "1e-05" in str(refusal.value)
    assert "0.0001" in str(refusal.value)
    assert "name" in str(refusal.value), "it says what to do"


@pytest.mark.parametrize(
    "override",
    ["budget.trials=50", "budget.hours=2.0", "resources.concurrent=1", "tracking={wandb: {project: mine}}"],
)
def test_more_trials_or_other_resources_are_the_same_space(study: StudyFolder, tmp_path: Path, override: str) -> None:
    require_same_space(study, write_space(tmp_path, override))


def test_images_that_changed_are_refused(study: StudyFolder) -> None:
    prepared = two_images()
    moved = replace(prepared, images=(replace(prepared.images[0], sha256="other"), *prepared.images[1:]))

    require_same_images(study, prepared)
    with pytest.raises(StudyError, match="the images changed"):
        require_same_images(study, moved)


def test_a_second_search_is_refused_and_told_who_holds_the_study(study: StudyFolder) -> None:
    with locked(study):
        assert is_locked(study)
        with pytest.raises(StudyError, match=r"searched by process \d+ on .*, since"), locked(study):
            pass

    assert not is_locked(study)
    with locked(study):
        pass


def test_a_folder_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study here"):
        StudyWatcher(StudyFolder(tmp_path))


def test_an_unknown_trial_is_named(study: StudyFolder) -> None:
    with pytest.raises(StudyError, match="no trial 7"):
        study.experiment(7)
