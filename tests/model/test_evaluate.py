"""`evaluate`: its metrics, errors and figure, and the log of access to the test folder."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from tests.confirm.labs import draw_hospital
from tests.in_process import command
from tests.model.conftest import CopyLab, Lab, change_record, read_rows
from xraytune.base.errors import ConfigError, DataError, MachineError
from xraytune.base.files import read_json, read_jsonl
from xraytune.confirm.test_access import accesses
from xraytune.model.evaluate import evaluate
from xraytune.model.predict import predict
from xraytune.model.train import train
from xraytune.study.folder import StudyFolder
from xraytune.trial.saved_model import open_bundle

pytestmark = pytest.mark.slow


def side_folder(lab: Lab, out: Path, *sides: str) -> Path:
    """The images of some sides of the model's split, in class folders."""
    for image in open_bundle(lab.model).prepared().images:
        if image.side in sides:
            target = out / Path(image.file).relative_to("train")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(lab.xrays / image.file, target)
    return out


def test_patients_of_the_model_are_found_on_images_with_other_bytes(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    lab = copy_lab()
    folder = shutil.copytree(lab.xrays / "test", tmp_path / "images")
    trained = next(
        image for image in open_bundle(lab.model).prepared().images if image.side == "train"
    )
    file = folder / Path(trained.file).relative_to("train")
    with Image.open(lab.xrays / trained.file) as opened:
        opened.save(file.with_suffix(".png"))
    shutil.rmtree(lab.xrays)  # the bundle alone knows them

    found = evaluate(lab.model, data=folder, replicates=10)

    assert (found.known_images, found.known_patients, found.images_of_known_patients) == (0, 1, 1)
    output = " ".join(command(f"evaluate {lab.model} --data {folder}").stdout.split())
    assert (
        "1 of these images have the ID, name or content of 1 patient in the model's own training"
        in output
    )


def test_images_of_the_models_folder_of_extra_images_are_known(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    copies, data = lab.path / "copies", lab.xrays / "test"
    shutil.copytree(lab.xrays / "train", copies)
    leaked = sorted((data / "NORMAL").iterdir())[:3]
    for number, file in enumerate(leaked):
        shutil.copy(file, copies / "NORMAL" / f"synthetic{number}.jpeg")
    mix = (
        "source=folder",
        "quality.allow_memorised=true",
        f"folder.path={copies}",
        "synthetic_ratio=0.5",
    )
    train(lab.best, out=lab.path / "mixed", overrides=[*mix, "budget.max_epochs=1"])

    found = evaluate(lab.path / "mixed", data=data, replicates=10)

    assert found.known_images == len(leaked)
    assert 1 <= found.known_patients <= len(leaked) <= found.images_of_known_patients


def test_test_set_access_is_logged_also_for_some_of_the_images_but_not_for_others(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    """Under any name; also of a folder that only `predict` gets."""
    lab = copy_lab()
    renamed = shutil.copytree(lab.xrays / "test", tmp_path / "harmless")
    next((renamed / "NORMAL").iterdir()).unlink()
    other = evaluate(lab.model, data=side_folder(lab, tmp_path / "b", "val_b"), replicates=10)
    assert other.test_access == 0
    assert not (lab.model / "test_access.jsonl").exists()

    first = evaluate(lab.model, data=lab.xrays / "test", reason="final figures", replicates=10)
    second = evaluate(lab.model, data=renamed, replicates=10)

    assert (first.test_access, first.known_images, second.test_access) == (1, 0, 2)
    for folder in (lab.model, lab.study, lab.study.parent):
        rows = read_jsonl(folder / "test_access.jsonl")
        assert [row["reason"] for row in rows] == ["final figures", ""]
        assert rows[0]["images"] == first.images
    predict(lab.model, next((renamed / "NORMAL").iterdir()), out=tmp_path / "one.csv")
    rows = read_jsonl(lab.study.parent / "test_access.jsonl", is_chained=True)
    assert [(row["command"], row["images"]) for row in rows[1:]] == [
        ("evaluate", first.images - 1),
        ("predict", 1),
    ]
    prepared = StudyFolder(lab.study).prepared()
    assert len(accesses(lab.study, prepared.test_contents)) == 3
    lab.study.rename(lab.path / "away")
    assert evaluate(lab.model, data=lab.xrays / "test", replicates=10).test_access == 4


def test_images_that_confirm_may_score_as_a_further_hospital_are_logged(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    """Although the study has its own test folder, and none of these is in it."""
    lab = copy_lab()
    draw_hospital(tmp_path / "hospital_b", seed=11)

    found = evaluate(lab.model, data=tmp_path / "hospital_b", replicates=10)
    predict(lab.model, tmp_path / "hospital_b" / "NORMAL", out=tmp_path / "table.csv")

    assert found.test_access == 1
    rows = read_jsonl(lab.study / "test_access.jsonl", is_chained=True)
    assert [row["command"] for row in rows] == ["evaluate", "predict"]
    assert rows[0]["images"] == found.images


def test_a_log_that_cannot_be_written_is_an_error_before_any_prediction(
    copy_lab: CopyLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = copy_lab()
    access = os.access

    def refuse(path: Path, mode: int) -> bool:
        return access(path, mode) and not (mode & os.W_OK and path == lab.study.parent)

    monkeypatch.setattr("os.access", refuse)

    def predict_nothing(what: str, *_: int) -> None:
        assert not what.startswith("classifying")

    with pytest.raises(MachineError, match="studies: cannot write to this folder"):
        evaluate(lab.model, data=lab.xrays / "test", on_progress=predict_nothing)


def test_patients_of_the_test_folder_are_those_of_the_data_folder(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    data = lab.xrays / "test"
    files = sorted(path.relative_to(lab.xrays).as_posix() for path in data.rglob("*.jpeg"))
    rows = "".join(f"{file},patient {number // 4}\n" for number, file in enumerate(files))
    (lab.xrays / "patients.csv").write_text(f"file,patient\n{rows}", encoding="utf-8")

    assert evaluate(lab.model, data=data, replicates=10).patients == -(-len(files) // 4)


def test_broken_images_are_listed_and_left_out_only_on_request(lab: Lab, tmp_path: Path) -> None:
    folder = side_folder(lab, tmp_path / "val_b", "val_b")
    for number in (1, 2):
        (folder / "NORMAL" / f"IM-900{number}-0001.jpeg").write_bytes(b"no image")

    with pytest.raises(
        DataError, match=r"(?s)IM-9001-0001.*IM-9002-0001.*2 images or masks are broken"
    ):
        evaluate(lab.model, data=folder)
    evaluation = evaluate(lab.model, data=folder, skip_broken=True, replicates=10)

    assert len(evaluation.broken) == 2
    assert evaluation.images == len(list(folder.glob("*/*"))) - 2
    assert evaluation.metrics["auroc"] == open_bundle(lab.model).record.val_b_score
    assert evaluation.known_images == evaluation.images_of_known_patients == evaluation.images


def test_the_folder_of_an_evaluation_agrees_with_its_predictions(lab: Lab, tmp_path: Path) -> None:
    """The command, as a user calls it, and every file that it writes."""
    data, out = shutil.copytree(lab.xrays / "train", tmp_path / "images"), tmp_path / "results"
    lines = [
        f"{file.name},{file.stem.rpartition('_')[0] or file.stem[:7]},{len(file.stem) % 2}\n"
        for file in data.rglob("*.jpeg")
    ]
    (data / "patients.csv").write_text("file,patient,odd\n" + "".join(lines), encoding="utf-8")

    done = command(f"evaluate {lab.model} --data {data} -o {out} --by odd")

    assert done.exit_code == 0, done.stderr
    files = ["evaluation.png", "evaluation.svg", "metrics.json", "predictions.csv"]
    assert sorted(file.name for file in out.iterdir()) == files
    metrics, predictions = read_json(out / "metrics.json"), read_rows(out / "predictions.csv")
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
    shutil.copytree(lab.xrays / "train" / "NORMAL", one_class / "NORMAL")

    with pytest.raises(DataError, match="it contains test/, train/, and it is unclear"):
        evaluate(lab.model, data=lab.xrays)
    with pytest.raises(DataError, match="no images of PNEUMONIA, so AUROC is undefined"):
        evaluate(lab.model, data=one_class)
    with pytest.raises(ConfigError, match="mistaken for an X-ray"):
        evaluate(lab.model, data=one_class, out=one_class / "results")


def test_a_metric_that_is_lower_than_in_validation_is_named(copy_lab: CopyLab) -> None:
    lab = copy_lab()
    before = evaluate(lab.model, data=lab.xrays / "train").notes
    change_record(lab.model, threshold=1e-9)  # all are called ill

    after = evaluate(lab.model, data=lab.xrays / "train").notes

    assert not [note for note in before if "in validation" in note]
    (note,) = (note for note in after if "in validation" in note)
    assert re.match(r"lower than in validation: specificity .* 0\.000 \(in validation 0\.", note)


def hospital(lab: Lab, folder: Path, *patients: str) -> Path:
    """The test images of some patients."""
    for image in sorted((lab.xrays / "test").rglob("*.jpeg")):
        if image.name.startswith(patients):
            (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / image.parent.name)
    return folder


def test_a_calibration_on_other_patients_gives_probabilities_and_a_threshold(
    lab: Lab, tmp_path: Path
) -> None:
    """The ranking stays."""
    few = hospital(lab, tmp_path / "few", "IM-0026", "NORMAL2-IM-0001", "person25")
    others = hospital(
        lab, tmp_path / "others", "NORMAL2-IM-0019", "person13", "person32", "person38", "person7"
    )
    plain = evaluate(lab.model, data=others, out=tmp_path / "plain", replicates=10)

    found = evaluate(
        lab.model, data=others, calibrate_on=few, out=tmp_path / "calibrated", replicates=10
    )

    fit = read_json(tmp_path / "calibrated" / "metrics.json")["calibration"]
    assert (fit["images"], fit["patients"], fit["threshold"]) == (5, 3, 0.6)
    assert found.metrics["auroc"] == plain.metrics["auroc"]
    before, after = (
        np.array(
            [
                float(row["probability_PNEUMONIA"])
                for row in read_rows(tmp_path / name / "predictions.csv")
            ]
        )
        for name in ("plain", "calibrated")
    )
    assert np.log(after / (1 - after)) == pytest.approx(
        fit["slope"] * np.log(before / (1 - before)) + fit["intercept"]
    )


def test_a_calibration_on_known_patients_or_wrong_labels_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    """The images of a patient need not be the same."""
    few = hospital(lab, tmp_path / "few", "IM-0026", "NORMAL2-IM-0001", "person25_bacteria_97")
    others = hospital(lab, tmp_path / "others", "NORMAL2-IM-0019", "person25_bacteria_98")
    strangers = hospital(lab, tmp_path / "strangers", "NORMAL2-IM-0019", "person7")
    trained = side_folder(lab, tmp_path / "trained", "train")

    with pytest.raises(
        DataError, match="1 patient of the images to calibrate on: evaluated as well"
    ):
        evaluate(lab.model, data=others, calibrate_on=few)
    with pytest.raises(DataError, match="in the model's training or validation set"):
        evaluate(lab.model, data=others, calibrate_on=trained)
    (few / "NORMAL").rename(few / "away")
    (few / "PNEUMONIA").rename(few / "NORMAL")
    (few / "away").rename(few / "PNEUMONIA")
    with pytest.raises(DataError, match="do not increase with PNEUMONIA"):
        evaluate(lab.model, data=strangers, calibrate_on=few)


def test_three_classes_are_called_by_probability(copy_lab: CopyLab, tmp_path: Path) -> None:
    lab = copy_lab()
    other = [
        "exported_from=null",
        "data.classes=three",
        "budget.max_epochs=1",
    ]  # the study has two classes
    model, images = lab.path / "three", lab.xrays / "train"
    train(lab.best, out=model, overrides=other, cache=lab.path / "cache")

    evaluation = evaluate(model, data=images, out=tmp_path / "results", replicates=10)
    predict(model, images, out=tmp_path / "table.csv")

    with pytest.raises(ConfigError, match="only a classifier of two classes can be calibrated"):
        evaluate(model, data=images, calibrate_on=lab.xrays / "test")
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
