"""A model adapted to another hospital: its probabilities, its threshold, and what is refused."""

import shutil
from pathlib import Path

import pytest

from tests.model.conftest import CopyLab, evaluate_classes, predict_classes, read_rows
from xraytune.base.errors import ArtifactError, ConfigError, DataError
from xraytune.base.files import read_json, write_json
from xraytune.data.phantom import draw_phantoms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other patients, whose images are harder to tell apart: `train/` and `test/`."""
    folder = tmp_path_factory.mktemp("hospital") / "xrays"
    draw_phantoms(folder, patients=70, seed=77, image_size_px=64, difficulty=0.3)
    return folder


def test_a_recalibrated_model_has_the_new_prevalence(copy_lab: CopyLab, hospital: Path, tmp_path: Path) -> None:
    lab = copy_lab()
    before = evaluate_classes(lab.model, data=hospital / "test", replicates=10)

    after = evaluate_classes(lab.model, data=hospital / "test", recalibrate=hospital / "train", replicates=10)
    again = evaluate_classes(lab.model, data=hospital / "train", out=tmp_path / "out", replicates=10)

    assert after.metrics["auroc"] == pytest.approx(before.metrics["auroc"]), "the order of the images is the same"
    assert before.recalibrated_on == 0
    assert after.recalibrated_on == again.images
    rows = read_rows(tmp_path / "out" / "predictions.csv")
    mean = sum(float(row["probability_PNEUMONIA"]) for row in rows) / len(rows)
    prevalence = again.class_counts["PNEUMONIA"] / again.images
    assert mean == pytest.approx(prevalence, abs=0.02)
    predicted = predict_classes(lab.model, hospital / "test", out=tmp_path / "predictions.csv")
    assert predicted.threshold == after.threshold != before.threshold


@pytest.mark.parametrize("fault", ["shared", "few", "twice", "sensitivity", "of another model", "one class"])
def test_a_refused_recalibration_changes_nothing(copy_lab: CopyLab, hospital: Path, tmp_path: Path, fault: str) -> None:
    lab = copy_lab()
    data, recalibrate, sensitivity = hospital / "test", hospital / "train", 0.9 if fault == "sensitivity" else None
    if fault == "shared":
        recalibrate = data
    elif fault == "few":
        draw_phantoms(tmp_path / "few", patients=12, seed=5, image_size_px=64)
        recalibrate = tmp_path / "few" / "train"
    elif fault in ("twice", "of another model"):
        evaluate_classes(lab.model, data=data, recalibrate=recalibrate, replicates=10)
    if fault == "of another model":
        recorded = lab.model / "recalibration.json"
        write_json(recorded, read_json(recorded) | {"model_sha256": "0" * 64})
    if fault == "one class":  # among the images to evaluate on
        data = shutil.copytree(data, tmp_path / "one", ignore=shutil.ignore_patterns("NORMAL"))
    files = {file: file.read_bytes() for file in lab.model.iterdir()}

    with pytest.raises({"of another model": ArtifactError, "one class": DataError}.get(fault, ConfigError)):
        evaluate_classes(lab.model, data=data, recalibrate=recalibrate, sensitivity=sensitivity, replicates=10)

    assert {file: file.read_bytes() for file in lab.model.iterdir()} == files
