"""`evaluate`: its metrics, errors and figure, and the log of access to the test folder."""

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import logit  # type: ignore[import-untyped]
from sklearn import metrics as sk

from tests.confirm.labs import draw_hospital
from tests.in_process import command
from tests.model.conftest import Lab, change_record, read_rows
from xraytune.base.errors import ConfigError, DataError, MachineError
from xraytune.base.files import read_json, read_jsonl
from xraytune.model.evaluate import evaluate
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.study.access_log import accesses
from xraytune.study.folder import StudyFolder
from xraytune.tasks.evaluation import Evaluation
from xraytune.trial.saved_model import open_bundle


def of_side(lab: Lab, side: str) -> list[Path]:
    """Return the images of a side of the model's split."""
    images = open_bundle(lab.model).prepared().images
    return [lab.xrays / image.file for image in images if image.side == side]


def of_patients(lab: Lab, *patients: str) -> list[Path]:
    """Return the test images of some patients."""
    images = sorted((lab.xrays / "test").rglob("*.jpeg"))
    return [image for image in images if image.name.startswith(patients)]


def copied(images: Iterable[Path], out: Path) -> Path:
    """Copy images into class folders in `out`."""
    for image in images:
        (out / image.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(image, out / image.parent.name)
    return out


def evaluated(model: Path, data: Path, **more: Any) -> Evaluation:
    """Evaluate a model, with rough intervals."""
    return evaluate(model, data=data, resample_count=10, **more)


def test_patients_of_the_model_are_found_on_images_with_other_bytes(
    private: Lab, tmp_path: Path
) -> None:
    folder = shutil.copytree(private.xrays / "test", tmp_path / "images")
    trained = of_side(private, "train")[0]
    with Image.open(trained) as opened:
        opened.save(folder / trained.parent.name / f"{trained.stem}.png")
    shutil.rmtree(private.xrays)  # the bundle alone knows them

    found = evaluated(private.model, folder)

    assert (found.known_images, found.known_patients, found.images_of_known_patients) == (0, 1, 1)
    output = " ".join(command(f"evaluate {private.model} --data {folder}").stdout.split())
    assert re.search("1 of these images .* of 1 patient in the model's own training", output)


def test_images_of_the_models_folder_of_extra_images_are_known(private: Lab) -> None:
    copies = private.path / "copies"
    data = private.xrays / "test"
    shutil.copytree(private.xrays / "train", copies)
    leaked = sorted((data / "NORMAL").iterdir())[:3]
    for number, file in enumerate(leaked):
        shutil.copy(file, copies / "NORMAL" / f"synthetic{number}.jpeg")
    mix = f"source=folder folder.path={copies} synthetic_ratio=0.5 budget.max_epochs=1"
    overrides = [*mix.split(), "quality.allow_memorised=true"]
    train(private.best, out=private.path / "mixed", overrides=overrides)

    found = evaluated(private.path / "mixed", data)

    assert found.known_images == len(leaked)
    assert 1 <= found.known_patients <= len(leaked) <= found.images_of_known_patients


def test_test_set_access_is_logged_also_for_some_of_the_images_but_not_for_others(
    private: Lab, tmp_path: Path
) -> None:
    """Names do not matter, and neither does it if only `predict` gets the folder."""
    renamed = shutil.copytree(private.xrays / "test", tmp_path / "harmless")
    next((renamed / "NORMAL").iterdir()).unlink()
    other = evaluated(private.model, copied(of_side(private, "val_b"), tmp_path / "b"))
    assert other.test_access == 0
    assert not (private.model / "test_access.jsonl").exists()

    first = evaluated(private.model, private.xrays / "test", reason="final figures")
    second = evaluated(private.model, renamed)

    assert (first.test_access, first.known_images, second.test_access) == (1, 0, 2)
    for folder in (private.model, private.study, private.study.parent):
        rows = read_jsonl(folder / "test_access.jsonl")
        assert [row["reason"] for row in rows] == ["final figures", ""]
        assert rows[0]["images"] == first.images
    predict(private.model, next((renamed / "NORMAL").iterdir()), out=tmp_path / "one.csv")
    rows = read_jsonl(private.study.parent / "test_access.jsonl", is_chained=True)
    logged = [(row["command"], row["images"]) for row in rows[1:]]
    assert logged == [("evaluate", first.images - 1), ("predict", 1)]
    prepared = StudyFolder(private.study).prepared()
    assert len(accesses(private.study, prepared.test_contents)) == 3
    private.study.rename(private.path / "away")
    assert evaluated(private.model, private.xrays / "test").test_access == 4


def test_images_that_confirm_may_score_as_a_further_hospital_are_logged(
    private: Lab, tmp_path: Path
) -> None:
    """They are logged although the study has a test folder without any of them."""
    draw_hospital(tmp_path / "hospital_b", seed=11)

    found = evaluated(private.model, tmp_path / "hospital_b")
    predict(private.model, tmp_path / "hospital_b/NORMAL", out=tmp_path / "table.csv")

    assert found.test_access == 1
    rows = read_jsonl(private.study / "test_access.jsonl", is_chained=True)
    assert [row["command"] for row in rows] == ["evaluate", "predict"]
    assert rows[0]["images"] == found.images


def test_a_log_that_cannot_be_written_is_an_error_before_any_prediction(
    private: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def refuse(path: Path, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and path == private.study.parent)

    monkeypatch.setattr("os.access", refuse)

    def predict_nothing(what: str, *_: int) -> None:
        assert not what.startswith("classifying")

    with pytest.raises(MachineError, match="studies: cannot write"):
        evaluate(private.model, data=private.xrays / "test", on_progress=predict_nothing)


def test_patients_of_the_test_folder_are_those_of_the_data_folder(private: Lab) -> None:
    data = private.xrays / "test"
    files = sorted(path.relative_to(private.xrays).as_posix() for path in data.rglob("*.jpeg"))
    rows = "".join(f"{file},patient {number // 4}\n" for number, file in enumerate(files))
    (private.xrays / "patients.csv").write_text(f"file,patient\n{rows}")

    assert evaluated(private.model, data).patients == -(-len(files) // 4)


def test_broken_images_are_listed_and_left_out_only_on_request(lab: Lab, tmp_path: Path) -> None:
    folder = copied(of_side(lab, "val_b"), tmp_path / "val_b")
    for number in (1, 2):
        (folder / "NORMAL" / f"IM-900{number}-0001.jpeg").write_bytes(b"no image")

    named = r"(?s)IM-9001-0001.*IM-9002-0001.*2 images or masks are broken"
    with pytest.raises(DataError, match=named):
        evaluate(lab.model, data=folder)
    evaluation = evaluated(lab.model, folder, skip_broken=True)

    assert len(evaluation.broken) == 2
    assert evaluation.images == len(list(folder.glob("*/*"))) - 2
    assert evaluation.metrics["auroc"] == open_bundle(lab.model).record.val_b_score
    assert evaluation.known_images == evaluation.images_of_known_patients == evaluation.images


def test_the_folder_of_an_evaluation_agrees_with_its_predictions(lab: Lab, tmp_path: Path) -> None:
    """The command is run as a user calls it, and every file that it writes is read."""
    data = shutil.copytree(lab.xrays / "train", tmp_path / "images")
    out = tmp_path / "results"
    lines = [
        f"{file.name},{file.stem.rpartition('_')[0] or file.stem[:7]},{len(file.stem) % 2}\n"
        for file in data.rglob("*.jpeg")
    ]
    (data / "patients.csv").write_text("file,patient,odd\n" + "".join(lines))

    done = command(f"evaluate {lab.model} --data {data} -o {out} --by odd")

    assert done.exit_code == 0, done.stderr
    files = ["evaluation.png", "evaluation.svg", "metrics.json", "predictions.csv"]
    assert sorted(file.name for file in out.iterdir()) == files
    metrics = read_json(out / "metrics.json")
    predictions = read_rows(out / "predictions.csv")
    assert [*predictions[0]] == [
        *("file", "patient", "label", "probability_NORMAL", "probability_PNEUMONIA"),
        *("threshold", "predicted"),
    ]
    truth = np.array([row["label"] == "PNEUMONIA" for row in predictions])
    scores = np.array([float(row["probability_PNEUMONIA"]) for row in predictions])
    called = np.array([row["predicted"] == "PNEUMONIA" for row in predictions])
    assert called.tolist() == (scores >= metrics["threshold"]).tolist()
    expected = {
        "auroc": sk.roc_auc_score(truth, scores),
        "brier": sk.brier_score_loss(truth, scores),
        "specificity (PNEUMONIA)": sk.recall_score(~truth, ~called),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["at_half"]["accuracy"] == pytest.approx(sk.accuracy_score(truth, scores >= 0.5))
    low, high = metrics["intervals"]["auroc"]
    assert low <= metrics["auroc"] <= high
    assert metrics["confusion"] == sk.confusion_matrix(truth, called).tolist()
    low, high = metrics["by_patient_intervals"]["auroc"]
    assert low <= metrics["by_patient"]["auroc"] <= high
    assert sum(group["images"] for group in metrics["subgroups"]["odd"].values()) == len(truth)
    assert "By odd" in done.stdout


def test_images_that_do_not_suit_are_refused(lab: Lab, tmp_path: Path) -> None:
    one_class = tmp_path / "images"
    shutil.copytree(lab.xrays / "train/NORMAL", one_class / "NORMAL")

    with pytest.raises(DataError, match="it contains test/, train/"):
        evaluate(lab.model, data=lab.xrays)
    with pytest.raises(DataError, match="no images of PNEUMONIA"):
        evaluate(lab.model, data=one_class)
    with pytest.raises(ConfigError, match="mistaken for an X-ray"):
        evaluate(lab.model, data=one_class, out=one_class / "results")


def test_a_metric_that_is_lower_than_in_validation_is_named(private: Lab) -> None:
    before = evaluate(private.model, data=private.xrays / "train").notes
    change_record(private.model, threshold=1e-9)  # all are called ill

    after = evaluate(private.model, data=private.xrays / "train").notes

    assert not [note for note in before if "in validation" in note]
    (note,) = (note for note in after if "in validation" in note)
    assert re.match(r"lower than in validation: specificity .* 0\.000 \(in validation 0\.", note)


def test_a_calibration_on_other_patients_gives_probabilities_and_a_threshold(
    lab: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The ranking of the images stays."""
    few = of_patients(lab, "IM-0026", "NORMAL2-IM-0001", "person25")
    patients = ("NORMAL2-IM-0019", "person13", "person32", "person38", "person7")
    others = copied(of_patients(lab, *patients), tmp_path / "others")
    plain = evaluated(lab.model, others, out=tmp_path / "plain")

    calibrate_on = copied(few, tmp_path / "few")
    found = evaluated(lab.model, others, calibrate_on=calibrate_on, out=tmp_path / "calibrated")

    fit = read_json(tmp_path / "calibrated/metrics.json")["calibration"]
    assert (fit["images"], fit["patients"], fit["threshold"]) == (5, 3, 0.6)
    assert found.metrics["auroc"] == plain.metrics["auroc"]
    before, after = (
        logit([float(row["probability_PNEUMONIA"]) for row in read_rows(table)])
        for table in (tmp_path / "plain/predictions.csv", tmp_path / "calibrated/predictions.csv")
    )
    assert after == pytest.approx(fit["slope"] * before + fit["intercept"])
    (calibrate_on / "NORMAL/broken.jpeg").write_bytes(b"")
    left = evaluated(lab.model, others, calibrate_on=calibrate_on, skip_broken=True)
    assert left.calibration == found.calibration
    assert "broken.jpeg" in caplog.text


def test_a_calibration_on_known_patients_or_wrong_labels_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    """The images of a patient need not be the same."""
    fitted = ("IM-0026", "NORMAL2-IM-0001", "person25_bacteria_97")
    few = copied(of_patients(lab, *fitted), tmp_path / "few")
    same = of_patients(lab, "NORMAL2-IM-0019", "person25_bacteria_98")
    others = copied(same, tmp_path / "others")
    strangers = copied(of_patients(lab, "NORMAL2-IM-0019", "person7"), tmp_path / "strangers")
    trained = copied(of_side(lab, "train"), tmp_path / "trained")

    with pytest.raises(DataError, match="1 patient of the images to calibrate on"):
        evaluate(lab.model, data=others, calibrate_on=few)
    with pytest.raises(DataError, match="in the model's training"):
        evaluate(lab.model, data=others, calibrate_on=trained)
    (few / "NORMAL").rename(few / "away")
    (few / "PNEUMONIA").rename(few / "NORMAL")
    (few / "away").rename(few / "PNEUMONIA")
    with pytest.raises(DataError, match="do not increase with PNEUMONIA"):
        evaluate(lab.model, data=strangers, calibrate_on=few)


def test_three_classes_are_called_by_probability(private: Lab, tmp_path: Path) -> None:
    # The study has two classes.
    other = "exported_from=null data.classes=three budget.max_epochs=1".split()
    model = private.path / "three"
    images = private.xrays / "train"
    train(private.best, out=model, overrides=other, cache=private.path / "cache")

    evaluation = evaluated(model, images, out=tmp_path / "results")
    predict(model, images, out=tmp_path / "table.csv")

    with pytest.raises(ConfigError, match="classifier of two classes"):
        evaluate(model, data=images, calibrate_on=private.xrays / "test")
    names = ["normal", "bacterial", "viral"]
    assert [*evaluation.facts["class_counts"]] == names
    assert not {"sensitivity", "ppv", "at_half"} & evaluation.to_json().keys()
    classes = evaluation.groups["classes"].values()
    assert evaluation.metrics["auroc"] == pytest.approx(
        np.mean(np.array([each.metrics["auroc"] for each in classes], dtype=float))
    )
    for row in read_rows(tmp_path / "table.csv"):
        shares = {name: float(row[f"probability_{name}"]) for name in names}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["predicted"] == max(shares, key=lambda name: shares[name])
