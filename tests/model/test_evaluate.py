"""`evaluate`: its metrics, errors and figure, and the log of access to the test folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

from tests.in_process import command
from tests.model.conftest import CopyLab, Lab, read_rows
from tests.model.conftest import evaluate_classes as evaluate
from tests.model.conftest import predict_classes as predict
from xraytune.base.errors import ConfigError, DataError
from xraytune.base.files import read_json, read_jsonl
from xraytune.cli.model import show_evaluation
from xraytune.model.load import open_bundle
from xraytune.model.train import train

pytestmark = pytest.mark.slow


def side_folder(model: Path, xrays: Path, out: Path, *sides: str) -> Path:
    """The images of some sides of a model's split, in class folders."""
    for image in open_bundle(model).prepared().images:
        if image.side in sides:
            target = out / Path(image.file).relative_to("train")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(xrays / image.file, target)
    return out


def other_bytes(image: Path) -> None:
    """Save an image again, as preprocessing would."""
    with Image.open(image) as opened:
        opened.save(image.with_suffix(".png"))
    image.unlink()


def test_patients_of_the_model_are_found_on_images_with_other_bytes(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    lab = copy_lab()
    folder = shutil.copytree(lab.xrays / "test", tmp_path / "images")
    trained = next(
        image for image in open_bundle(lab.model).prepared().images if image.side == "train"
    )
    copy = folder / Path(trained.file).relative_to("train")
    shutil.copy(lab.xrays / trained.file, copy)
    other_bytes(copy)
    shutil.rmtree(lab.xrays)  # the bundle alone knows them

    found = evaluate(lab.model, data=folder, replicates=10)

    assert (found.known_images, found.known_patients, found.images_of_known_patients) == (0, 1, 1)
    assert found.to_json()["known_patients"] == 1
    output = " ".join(command("evaluate", lab.model, "--data", folder).stdout.split())
    assert (
        "1 of these images belong to 1 patient in the model's own training or validation set"
        in output
    )


def test_the_metrics_on_the_validation_images_are_shown_beside_those_of_the_folder(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = side_folder(lab.model, lab.xrays, tmp_path / "both", "val_a", "val_b")

    evaluation = evaluate(lab.model, data=data, replicates=10)

    before = {metric.name: metric.value for metric in evaluation.validation}
    assert before["sensitivity (PNEUMONIA)"] == pytest.approx(evaluation.metrics["sensitivity"])
    show_evaluation(evaluation)
    auroc, *_ = (line for line in capsys.readouterr().out.splitlines() if line.startswith("AUROC"))
    assert auroc.split()[1] == auroc.split()[-1]


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
    shutil.rmtree(copies)

    assert found.known_images == len(leaked)
    assert 1 <= found.known_patients <= len(leaked) <= found.images_of_known_patients
    assert evaluate(lab.path / "mixed", data=data, replicates=10).known_patients == 0


def test_test_set_access_is_logged_also_for_a_renamed_folder(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    lab = copy_lab()
    renamed = shutil.copytree(lab.xrays / "test", tmp_path / "harmless")

    first = evaluate(lab.model, data=lab.xrays / "test", reason="final figures", replicates=10)
    second = evaluate(lab.model, data=renamed, replicates=10)

    assert (first.opened_test, first.test_access, first.known_images) == (True, 1, 0)
    assert (second.opened_test, second.test_access) == (True, 2)
    for folder in (lab.model, lab.study, lab.study.parent):
        log = folder / "test_access.jsonl"
        rows = read_jsonl(log)
        assert [row["reason"] for row in rows] == ["final figures", ""]
        assert {row["fingerprint"] for row in rows} == {
            open_bundle(lab.model).record.test_fingerprint
        }
        assert rows[0]["images"] == first.images
        assert (log.parent / rows[0]["model"]).resolve() == lab.model
        assert rows[0]["time"].endswith("+00:00")


def test_patients_of_the_test_folder_are_those_of_the_data_folder(copy_lab: CopyLab) -> None:
    """By its table, unless that lacks some."""
    lab = copy_lab()
    data, table = lab.xrays / "test", lab.xrays / "patients.csv"
    files = sorted(path.relative_to(lab.xrays).as_posix() for path in data.rglob("*.jpeg"))
    before = evaluate(lab.model, data=data, replicates=10).patients

    table.write_text(f"file,patient\n{Path(files[0]).name},somebody\n", encoding="utf-8")
    assert evaluate(lab.model, data=data, replicates=10).patients == before
    rows = "".join(f"{file},patient {number // 4}\n" for number, file in enumerate(files))
    table.write_text(f"file,patient\n{rows}", encoding="utf-8")
    found = evaluate(lab.model, data=data, replicates=10)
    assert (found.opened_test, found.patients) == (True, -(-len(files) // 4))
    assert sum(found.class_counts.values()) == len(files)


def test_test_access_is_counted_without_the_study_not_for_other_images(
    copy_lab: CopyLab, tmp_path: Path
) -> None:
    lab = copy_lab()
    other = evaluate(
        lab.model,
        data=side_folder(lab.model, lab.xrays, tmp_path / "val_b", "val_b"),
        replicates=10,
    )
    assert (other.opened_test, other.test_access) == (False, 0)
    assert not (lab.model / "test_access.jsonl").exists()
    lab.study.rename(lab.path / "away")

    assert evaluate(lab.model, data=lab.xrays / "test", replicates=10).test_access == 1


def test_broken_images_are_listed_and_left_out_only_on_request(lab: Lab, tmp_path: Path) -> None:
    folder = side_folder(lab.model, lab.xrays, tmp_path / "val_b", "val_b")
    for number in (1, 2):
        (folder / "NORMAL" / f"IM-900{number}-0001.jpeg").write_bytes(b"no image")

    with pytest.raises(DataError, match=r"(?s)IM-9001-0001.*IM-9002-0001.*2 images are broken"):
        evaluate(lab.model, data=folder)
    evaluation = evaluate(lab.model, data=folder, skip_broken=True, replicates=10)

    assert len(evaluation.broken) == 2
    assert evaluation.images == len(list(folder.glob("*/*"))) - 2
    assert evaluation.metrics["auroc"] == open_bundle(lab.model).record.val_b_score
    assert evaluation.known_images == evaluation.images_of_known_patients == evaluation.images
    assert evaluation.known_patients == evaluation.patients


def test_the_folder_of_an_evaluation_agrees_with_its_predictions(lab: Lab, tmp_path: Path) -> None:
    """The command, as a user calls it, and every file that it writes."""
    data, out = shutil.copytree(lab.xrays / "train", tmp_path / "images"), tmp_path / "results"
    lines = [
        f"{file.name},{file.stem.rpartition('_')[0] or file.stem[:7]},{len(file.stem) % 2}\n"
        for file in data.rglob("*.jpeg")
    ]
    (data / "patients.csv").write_text("file,patient,odd\n" + "".join(lines), encoding="utf-8")

    done = command("evaluate", lab.model, "--data", data, "-o", out, "--by", "odd")

    assert done.exit_code == 0, done.stderr
    names = ["NORMAL", "PNEUMONIA"]
    files = ["evaluation.png", "evaluation.svg", "metrics.json", "predictions.csv"]
    assert sorted(file.name for file in out.iterdir()) == files
    metrics, predictions = read_json(out / "metrics.json"), read_rows(out / "predictions.csv")
    assert list(predictions[0]) == [
        "file",
        "patient",
        "label",
        *(f"probability_{name}" for name in names),
        "threshold",
        "predicted",
    ]
    assert all(
        (data / row["file"]).is_file() and row["file"].startswith(row["label"])
        for row in predictions
    )
    truth = np.array([row["label"] == "PNEUMONIA" for row in predictions])
    scores = np.array([float(row["probability_PNEUMONIA"]) for row in predictions])
    called = np.array([row["predicted"] == "PNEUMONIA" for row in predictions])
    assert called.tolist() == (scores >= metrics["threshold"]).tolist()
    expected = {
        "auroc": sk.roc_auc_score(truth, scores),
        "brier": sk.brier_score_loss(truth, scores),
        "sensitivity (PNEUMONIA)": sk.recall_score(truth, called),
        "specificity (PNEUMONIA)": sk.recall_score(~truth, ~called),
        "f1 (PNEUMONIA)": sk.f1_score(truth, called),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["at_half"]["accuracy"] == pytest.approx(sk.accuracy_score(truth, scores >= 0.5))
    low, high = metrics["intervals"]["auroc"]
    assert low <= metrics["auroc"] <= high
    assert metrics["confusion"] == sk.confusion_matrix(truth, called).tolist()
    assert [*metrics["classes"]] == names
    assert metrics["classes"]["NORMAL"]["metrics"]["sensitivity"] == pytest.approx(
        sk.recall_score(~truth, ~called)
    )
    assert metrics["classes"]["PNEUMONIA"]["intervals"]["auroc"] == metrics["intervals"]["auroc"]
    by_patient = {row["patient"]: row["label"] for row in predictions}
    of_patients = [
        np.mean([s for s, row in zip(scores, predictions, strict=True) if row["patient"] == one])
        for one in by_patient
    ]
    by_mean = sk.roc_auc_score([label == "PNEUMONIA" for label in by_patient.values()], of_patients)
    assert metrics["patient_level"]["metrics"]["auroc"] == pytest.approx(by_mean)
    assert (
        sum(metrics["patient_level"]["class_counts"].values()) == len(by_patient) < len(predictions)
    )
    assert [group["value"] for group in metrics["subgroups"]["odd"]] == ["0", "1"]
    assert sum(group["images"] for group in metrics["subgroups"]["odd"]) == len(predictions)
    with Image.open(out / "evaluation.png") as opened:
        assert opened.size[0] == 1800
    assert "1 - specificity (PNEUMONIA)" in (out / "evaluation.svg").read_text(encoding="utf-8")
    by_odd = "By odd, sensitivity and specificity of PNEUMONIA (exploratory)"
    for text in ("sensitivity (PNEUMONIA)", "Confusion matrix", "By patient", by_odd, "results"):
        assert text in done.stdout


def test_an_evaluation_is_refused_before_anything_is_read(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()

    with pytest.raises(ConfigError, match="this path already exists"):
        evaluate(tmp_path / "no model", data=lab.xrays / "train", out=tmp_path / "there")
    with pytest.raises(ConfigError, match="mistaken for an X-ray"):
        evaluate(
            tmp_path / "no model", data=lab.xrays / "train", out=lab.xrays / "train" / "results"
        )


@pytest.mark.parametrize(
    ("folder", "what"),
    [
        ("", "it contains test/, train/, and it is unclear"),
        ("one class", "no images of PNEUMONIA, so AUROC is undefined"),
    ],
)
def test_images_that_do_not_suit_are_refused(
    lab: Lab, tmp_path: Path, folder: str, what: str
) -> None:
    data = lab.xrays / folder
    if folder == "one class":
        data = tmp_path / "images"
        shutil.copytree(lab.xrays / "train" / "NORMAL", data / "NORMAL")

    with pytest.raises(DataError, match=what):
        evaluate(lab.model, data=data)


@pytest.mark.parametrize(
    ("table", "column", "what"),
    [
        ("", "sex", "has this column, or it is empty(.|\n)*use one of: pneumonia"),
        ("file,patient,age,sex\n{}", "aeg", r"has this column(.|\n)*did you mean 'age'\?"),
        ("file,patient,name,\n{}", "name", "[0-9]+ different values"),
    ],
)
def test_a_column_without_subgroups_is_refused(
    lab: Lab, tmp_path: Path, table: str, column: str, what: str
) -> None:
    data = shutil.copytree(lab.xrays / "train", tmp_path / "images")
    rows = "".join(
        f"{file.name},{file.stem},{file.name},\n" for file in sorted(data.rglob("*.jpeg"))
    )
    if table:
        (data / "patients.csv").write_text(table.format(rows), encoding="utf-8")

    with pytest.raises(ConfigError, match=what):
        evaluate(lab.model, data=data, by=[column], replicates=10)


def hospital(lab: Lab, folder: Path, *patients: str) -> Path:
    """The test images of some patients."""
    for image in sorted((lab.xrays / "test").rglob("*.jpeg")):
        if image.name.startswith(patients):
            (folder / image.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(image, folder / image.parent.name)
    return folder


def test_a_calibration_on_other_patients_gives_probabilities_and_a_threshold(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ranking stays; the metrics without it are those of a plain evaluation."""
    few = hospital(lab, tmp_path / "few", "IM-0026", "NORMAL2-IM-0001", "person25")
    others = hospital(
        lab, tmp_path / "others", "NORMAL2-IM-0019", "person13", "person32", "person38", "person7"
    )
    plain = evaluate(lab.model, data=others, out=tmp_path / "plain", replicates=10)

    found = evaluate(
        lab.model, data=others, calibrate_on=few, out=tmp_path / "calibrated", replicates=10
    )

    fit = found.calibration
    assert fit is not None
    assert (fit.images, fit.patients, fit.threshold, found.threshold) == (5, 3, 0.6, 0.6)
    assert (plain.calibration, plain.uncalibrated) == (None, None)
    assert found.uncalibrated == plain.metrics
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
        fit.slope * np.log(before / (1 - before)) + fit.intercept
    )
    assert read_json(tmp_path / "calibrated" / "metrics.json")["calibration"]["images"] == 5
    show_evaluation(found)
    assert "calibrated on 5 images of 3 patients" in capsys.readouterr().out


def test_a_calibration_on_patients_who_are_evaluated_or_known_is_refused(
    lab: Lab, tmp_path: Path
) -> None:
    """Their images need not be the same."""
    few = hospital(lab, tmp_path / "few", "IM-0026", "person25_bacteria_97")
    others = hospital(lab, tmp_path / "others", "NORMAL2-IM-0019", "person25_bacteria_98")
    trained = side_folder(lab.model, lab.xrays, tmp_path / "trained", "train")

    with pytest.raises(
        DataError, match="1 patient of the images to calibrate on: evaluated as well"
    ):
        evaluate(lab.model, data=others, calibrate_on=few)
    with pytest.raises(DataError, match="in the model's training or validation set"):
        evaluate(lab.model, data=others, calibrate_on=trained)
    shutil.rmtree(few / "NORMAL")
    with pytest.raises(DataError, match="no images of NORMAL"):
        evaluate(lab.model, data=others, calibrate_on=few)


def test_wrong_labels_calibrate_nothing(lab: Lab, tmp_path: Path) -> None:
    few = hospital(lab, tmp_path / "few", "IM-0026", "NORMAL2-IM-0001", "person25")
    others = hospital(lab, tmp_path / "others", "NORMAL2-IM-0019", "person7")
    for source, target in (
        ("NORMAL", "swapped"),
        ("PNEUMONIA", "NORMAL"),
        ("swapped", "PNEUMONIA"),
    ):
        (few / source).rename(few / target)

    with pytest.raises(DataError, match="do not increase with PNEUMONIA"):
        evaluate(lab.model, data=others, calibrate_on=few)


def test_three_classes_are_called_by_probability(
    copy_lab: CopyLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = copy_lab()
    other = [
        "exported_from=null",
        "data.classes=three",
        "budget.max_epochs=1",
    ]  # the study has two classes
    train(lab.best, out=lab.path / "three", overrides=other, cache=lab.path / "cache")

    evaluation = evaluate(
        lab.path / "three", data=lab.xrays / "train", out=tmp_path / "results", replicates=10
    )
    predict(lab.path / "three", lab.xrays / "train", out=tmp_path / "table.csv")

    with pytest.raises(ConfigError, match="only a classifier of two classes can be calibrated"):
        evaluate(lab.path / "three", data=lab.xrays / "train", calibrate_on=lab.xrays / "test")
    assert list(evaluation.class_counts) == ["normal", "bacterial", "viral"]
    assert (evaluation.threshold, evaluation.at_half) == (None, None)
    assert not [key for key in evaluation.to_json() if key.startswith(("sensitivity", "ppv"))]
    assert evaluation.metrics["auroc"] == pytest.approx(
        np.mean([one.value_of("auroc") for one in evaluation.classes.values()])
    )
    show_evaluation(evaluation)
    assert "AUROC (macro)" in capsys.readouterr().out
    for row in read_rows(tmp_path / "table.csv"):
        shares = {name: float(row[f"probability_{name}"]) for name in evaluation.class_counts}
        assert sum(shares.values()) == pytest.approx(1)
        assert row["predicted"] == max(shares, key=lambda name: shares[name])
