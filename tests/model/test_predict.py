"""The CSV file of `predict`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from tests.in_process import command
from tests.model.conftest import CopyLab, Lab, change_record
from tests.model.conftest import predict_classes as predict
from xraytune.base.errors import DataError
from xraytune.model.load import open_bundle

pytestmark = pytest.mark.slow


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_at_any_depth_has_a_row_in_sorted_order(lab: Lab, tmp_path: Path) -> None:
    images = shutil.copytree(lab.xrays / "test", tmp_path / "images" / "ward")
    loose = next(iter(images.glob("NORMAL/*")))
    shutil.copy(loose, tmp_path / "images" / "a, b.jpeg")

    predicted = predict(lab.model, tmp_path / "images", out=tmp_path / "table.csv")

    rows = read_table(tmp_path / "table.csv")
    assert [row["file"] for row in rows] == sorted(
        ["a, b.jpeg", *(f"ward/{file.relative_to(images).as_posix()}" for file in images.glob("*/*"))]
    )
    assert sum(predicted.counts.values()) == len(rows)
    by_file = {row["file"]: row for row in rows}
    assert by_file["a, b.jpeg"]["predicted"] == by_file[f"ward/NORMAL/{loose.name}"]["predicted"]


def test_score_at_threshold_is_positive(lab: Lab, tmp_path: Path) -> None:
    threshold = open_bundle(lab.model).record.threshold

    predict(lab.model, lab.xrays / "train", out=tmp_path / "table.csv")

    rows = read_table(tmp_path / "table.csv")
    assert {row["predicted"] for row in rows} == {"NORMAL", "PNEUMONIA"}
    for row in rows:
        assert (row["predicted"] == "PNEUMONIA") == (float(row["probability_PNEUMONIA"]) >= threshold)
        assert float(row["probability_NORMAL"]) + float(row["probability_PNEUMONIA"]) == pytest.approx(1)


def test_dicom_and_json(lab: Lab, tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "ward").mkdir(parents=True)
    jpeg = sorted(lab.xrays.glob("test/*/*.jpeg"))[0]
    shutil.copy(jpeg, images / "ward" / "a.jpeg")
    with Image.open(jpeg) as opened:
        write_dicom(images / "a.dcm", np.asarray(opened))

    result = command("predict", lab.model, images, "-o", tmp_path / "t.csv", "--json")

    content, rows = json.loads(result.stdout), read_table(tmp_path / "t.csv")
    assert [row["file"] for row in rows] == ["a.dcm", "ward/a.jpeg"]
    assert rows[0]["probability_PNEUMONIA"] == rows[1]["probability_PNEUMONIA"]
    assert {row["threshold"] for row in rows} == {str(open_bundle(lab.model).record.threshold)}
    for one, row in zip(content["predictions"], rows, strict=True):
        assert (one["file"], one["predicted"]) == (row["file"], row["predicted"])
        assert one["probabilities"]["PNEUMONIA"] == float(row["probability_PNEUMONIA"])


def write_dicom(path: Path, pixels: NDArray[np.uint8]) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def test_at_a_higher_sensitivity_more_images_are_called_positive(lab: Lab, tmp_path: Path) -> None:
    few, many = (
        predict(lab.model, lab.xrays / "train", out=tmp_path / f"{share}.csv", sensitivity=share)
        for share in (0.3, 0.8)
    )

    assert few.threshold is not None
    assert many.threshold is not None
    assert many.threshold < few.threshold
    assert many.counts["PNEUMONIA"] > few.counts["PNEUMONIA"]


def test_prediction_does_not_depend_on_batch(lab: Lab, tmp_path: Path) -> None:
    predict(lab.model, lab.path / "xrays", out=tmp_path / "many.csv")
    many = read_table(tmp_path / "many.csv")
    assert len(many) > 64

    for row in (many[0], many[-1]):
        out = tmp_path / f"{Path(row['file']).stem}.csv"
        predict(lab.model, lab.xrays / row["file"], out=out)

        (alone,) = read_table(out)
        assert alone["file"] == Path(row["file"]).name
        assert float(alone["probability_NORMAL"]) == pytest.approx(float(row["probability_NORMAL"]), abs=1e-6)


def test_nothing_is_written_when_images_are_broken(lab: Lab, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "empty.png").touch()

    with pytest.raises(DataError, match=r"empty\.png: the file is empty"):
        predict(lab.model, images, out=tmp_path / "table.csv")
    with pytest.raises(DataError, match="all 1 images are broken"):
        predict(lab.model, images, out=tmp_path / "table.csv", skip_broken=True)

    assert not (tmp_path / "table.csv").exists()


def test_a_missing_folder_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        predict(lab.model, tmp_path / "nowhere", out=tmp_path / "table.csv")


FORMULA = "=cmd|' /C calc'!A1"


def test_prediction_table_escapes_formulas(copy_lab: CopyLab, tmp_path: Path) -> None:
    """Spreadsheets run what begins with one of = + - @; files and classes come with the data."""
    lab = copy_lab()
    change_record(lab.model, class_names=[FORMULA, "@risk"], positive="@risk", validation=None)
    images = tmp_path / "images"
    some = sorted((lab.xrays / "test").rglob("*.jpeg"))[:4]
    for name, image in zip(("=1+1.jpeg", "@eaDir/-1.jpeg", "+a.jpeg", "plain.jpeg"), some, strict=True):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, images / name)

    predict(lab.model, images, out=tmp_path / "table.csv")

    rows = read_table(tmp_path / "table.csv")
    assert [row["file"] for row in rows] == ["./+a.jpeg", "./=1+1.jpeg", "./@eaDir/-1.jpeg", "plain.jpeg"]
    assert all((images / row["file"]).is_file() for row in rows)
    assert {row["predicted"] for row in rows} <= {f"'{FORMULA}", "'@risk"}
    assert f"probability_{FORMULA}" in rows[0]
