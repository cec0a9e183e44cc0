"""The arms of a search side by side, and what ASHA saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.study.studies import CPU, direct, ended, epoch, two_images, write_space
from xraytune.base.files import write_array
from xraytune.base.tables import text_of
from xraytune.data.images import ImageFile
from xraytune.data.prepare import write_prepared
from xraytune.present.trials import heading
from xraytune.study.folder import StudyFolder
from xraytune.study.start import create_study
from xraytune.study.status import status

pytestmark = pytest.mark.slow
_PATIENTS = 80
_LABELS = np.arange(_PATIENTS) % 2
_SOURCES = ("none", "gan", "gan", "none", "none", "gan")
_POINTS = "points_to_evaluate=[{}]".format(
    ", ".join(
        f"{{source: {source}, lr: {number + 1}e-4}}" for number, source in enumerate(_SOURCES)
    )
)


@pytest.fixture
def searched(tmp_path: Path) -> StudyFolder:
    """80 patients on val-B, three trials each of `real_only` and `gan`, the last one pruned."""
    folder = StudyFolder(tmp_path / "studies/small")
    val_b = [
        ImageFile(
            file=f"{n}.png",
            patient=f"{n}",
            label=int(label),
            side="val_b",
            row=n + 2,
            sha256=f"{n}",
        )
        for n, label in enumerate(_LABELS)
    ]
    prepared = replace(two_images(), images=(*list(two_images().images)[:2], *val_b))
    create_study(folder, write_space(tmp_path, _POINTS, "scheduler.within=arm"), prepared, CPU)
    loop = direct(folder, _POINTS, "scheduler.within=arm")
    for number, value in enumerate((0.90, 0.80, 0.85, 0.92, 0.70, 0.60)):
        loop.next_trial()
        if loop.on_result(number, epoch(1, value)):
            write_array(folder.results_path(number), probabilities(number), is_recorded=True)
            loop.on_result(number, ended(value))
    return folder


def probabilities(number: int) -> np.ndarray:
    draw = np.random.default_rng(number)
    ill = np.clip(0.5 + 0.2 * (_LABELS - 0.5) + draw.normal(0, 0.15, _PATIENTS), 0, 1)
    return np.stack([1 - ill, ill], axis=1)


def test_each_arm_is_summarised_by_its_complete_trials(searched: StudyFolder) -> None:
    real_only, gan = status(searched.path).arms

    assert (real_only.arm, real_only.trials, real_only.val_a) == (
        "real_only",
        {"complete": 2, "pruned": 1},
        (3, 0.92),
    )
    assert (gan.arm, gan.trials, gan.val_a) == ("gan", {"complete": 2, "pruned": 1}, (2, 0.85))
    assert (real_only.difference, real_only.standard_error) == (None, None)
    assert gan.val_b
    assert real_only.val_b
    assert gan.difference == pytest.approx(gan.val_b[1] - real_only.val_b[1])


def test_the_standard_error_is_that_of_a_bootstrap_over_patients(searched: StudyFolder) -> None:
    real_only, gan = status(searched.path).arms
    assert gan.val_b
    assert real_only.val_b
    first, second = (probabilities(best[0])[:, 1] for best in (gan.val_b, real_only.val_b))
    draw = np.random.default_rng(7)
    differences = []
    for _ in range(1000):
        rows = draw.integers(0, _PATIENTS, _PATIENTS)
        labels = _LABELS[rows]
        differences.append(roc_auc_score(labels, first[rows]) - roc_auc_score(labels, second[rows]))

    assert gan.standard_error == pytest.approx(np.std(differences), rel=0.15)


def test_a_finding_of_a_single_patient_leaves_the_standard_error_unknown(
    searched: StudyFolder,
) -> None:
    prepared = searched.prepared()
    images = tuple(
        replace(
            image,
            patient="one" if image.row in range(2, 14) else image.patient,
            findings=f"{image.label}{int(image.row in range(2, 14))}",
        )
        for image in prepared.images
    )
    with_findings = replace(prepared, findings=("edema", "hernia"), images=images)
    write_prepared(with_findings, searched.path / "split.json")

    _, gan = status(searched.path).arms

    assert gan.difference is not None
    assert gan.standard_error is None


def test_epochs_of_stopped_trials_are_saved_and_without_any_nothing_is_reported(
    searched: StudyFolder,
) -> None:
    view = status(searched.path)

    assert view.pruning == "ASHA stopped 2 of 6 trials and saved 16 of 22 epochs"
    assert replace(view, trials=view.trials[:2]).pruning == ""


def test_a_search_whose_scores_are_all_at_their_maximum_says_so(searched: StudyFolder) -> None:
    view = status(searched.path)
    perfect = tuple(trial.model_copy(update={"value": 0.9995}) for trial in view.trials)

    saturated = replace(view, trials=perfect)

    assert view.saturation == ""
    assert saturated.saturation.startswith("all 4 complete trials have a val-A AUROC of 1.000")
    assert "data.train_patients" in " ".join(text_of(line) for line in heading(saturated))
