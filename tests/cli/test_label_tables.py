"""The public sets with a label table: the shipped data files on small generated copies of each layout."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.spaces import EXPERIMENT
from tests.data.test_dicom import dicom
from tests.in_process import command, said
from xraytune.base.seeding import numpy_generator
from xraytune.data.index import ImageIndex, read_index
from xraytune.data.table import table_columns
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings

SHIPPED = Path(__file__).resolve().parents[2] / "search_spaces" / "data"
Draw = Callable[[Path], None]


def draw(path: Path, *, is_bright: bool) -> None:
    """A small image of its own; the ill are brighter, so that a classifier has something to learn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = numpy_generator(0, str(path.name), str(path.parent)).integers(0, 120, (40, 40), dtype=np.uint8)
    pixels = grey + np.uint8(100 * is_bright)
    if path.suffix == ".dcm":
        path.write_bytes(dicom(pixels, bits=8))
    else:
        Image.fromarray(pixels).save(path)


def write_table(path: Path, header: str, rows: Iterable[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def nih(root: Path) -> None:
    """20 patients with two X-rays each, in two image folders; the last 6 are the official test patients."""
    rows: list[str] = []
    lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
    for patient, visit in product(range(1, 21), range(2)):
        name, is_ill = f"{patient:08d}_{visit:03d}.png", patient % 2 == 0
        draw(root / f"images_{1 + patient // 11:03d}" / "images" / name, is_bright=is_ill)
        labels = "Infiltration|Pneumonia" if is_ill else "No Finding"
        labels = "Cardiomegaly" if patient == 1 and visit else labels
        rows.append(f"{name},{labels},{visit},{patient},{50 + patient},F,PA,2500,2048,0.14,0.14,")
        lists["test_list.txt" if patient > 14 else "train_val_list.txt"].append(name)
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    header += ",OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    write_table(root / "Data_Entry_2017.csv", header, rows)
    for file, names in lists.items():
        (root / file).write_text("\n".join(names), encoding="utf-8")


def rsna(root: Path) -> None:
    """15 patients in three classes; the ill have two rows, one for each box."""
    rows, boxes = [], []
    for number in range(15):
        name, kind = f"{number:04x}-4124-a8b0", ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal")[number % 3]
        is_ill = kind == "Lung Opacity"
        draw(root / "stage_2_train_images" / f"{name}.dcm", is_bright=is_ill)
        rows += [f"{name},{kind}"] * (2 if is_ill else 1)
        boxes += [f"{name},1.0,2.0,3.0,4.0,1"] * 2 if is_ill else [f"{name},,,,,0"]
    write_table(root / "stage_2_detailed_class_info.csv", "patientId,class", rows)
    write_table(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", boxes)
    draw(root / "stage_2_test_images" / "ffff-1.dcm", is_bright=False)


def chexpert(root: Path) -> None:
    """12 patients with a frontal and a lateral view of the same names in train/, 4 in valid/; one label is uncertain."""
    for part, first, last in (("train", 1, 12), ("valid", 64541, 64544)):
        rows = []
        for patient, view in product(range(first, last + 1), ("view1_frontal", "view2_lateral")):
            is_ill = patient % 2 == 0
            file = f"{part}/patient{patient:05d}/study1/{view}.jpg"
            draw(root / file, is_bright=is_ill)
            labels = ",,-1.0" if patient == 12 else ",1.0,1.0" if is_ill else "1.0,,0.0"
            sides = "Frontal,AP" if "frontal" in view else "Lateral,"
            rows.append(f"CheXpert-v1.0-small/{file},Male,{40 + patient % 9},{sides},{labels}")
        write_table(root / f"{part}.csv", "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Lung Opacity,Pneumonia", rows)


def example(root: Path, layout: Draw, name: str) -> Path:
    """A copy of the layout with the shipped data file in it."""
    root.mkdir()
    layout(root)
    return Path(shutil.copy(SHIPPED / name, root))


def read(file: Path) -> ImageIndex:
    return read_index(data_settings(file, DataSettings(path=file)))


def counts(index: ImageIndex) -> dict[str, int]:
    """Images by part and class."""
    images = (*index.images, *index.test)
    return dict(Counter(f"{image.part} {index.class_names[image.label]}" for image in images))


def test_nih_chestxray14_by_its_table_and_lists(tmp_path: Path) -> None:
    file = example(tmp_path / "CXR8", nih, "nih_chestxray14.yaml")

    index = read(file)

    assert counts(index) == {"train NORMAL": 13, "train PNEUMONIA": 14, "test NORMAL": 6, "test PNEUMONIA": 6}
    first = index.images[0]
    assert (first.file, first.patient) == ("images_001/images/00000001_000.png", "1")
    assert index.warnings == (
        "Data_Entry_2017.csv leaves out images with none of the labels Pneumonia, No Finding: 1 (Cardiomegaly 1)",
    )
    columns = table_columns(data_settings(file, DataSettings(path=file)), [image.file for image in index.images])
    assert columns["Patient Age"][first.file] == "51"
    assert "Patient ID" not in columns


def test_rsna_by_its_class_table(tmp_path: Path) -> None:
    index = read(example(tmp_path / "rsna", rsna, "rsna.yaml"))

    assert counts(index) == {"train NORMAL": 5, "train PNEUMONIA": 5}
    assert {image.patient for image in index.images} == {Path(image.file).stem for image in index.images}


def test_chexpert_by_a_column_for_each_label(tmp_path: Path) -> None:
    index = read(example(tmp_path / "CheXpert-v1.0-small", chexpert, "chexpert.yaml"))

    assert counts(index) == {"train NORMAL": 12, "train PNEUMONIA": 10, "test NORMAL": 4, "test PNEUMONIA": 4}
    assert {image.patient for image in index.test} == {f"patient{number}" for number in range(64541, 64545)}


@pytest.mark.slow
def test_model_is_trained_and_evaluated_by_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the inspection to the metrics of the test side; a table of the same patients is recognised."""
    monkeypatch.chdir(tmp_path)
    Path("fixed.yaml").write_text(EXPERIMENT, encoding="utf-8")
    file = example(tmp_path / "CXR8", nih, "nih_chestxray14.yaml")

    found = said("data", "inspect", file)
    trained = command("train", "--config", "fixed.yaml", "--data", file, "-o", "model")
    assert trained.exit_code == 0, trained.stderr
    on_test = said("evaluate", "model", "--data", file)

    assert (found["class_names"], found["positive"], found["broken"]) == (["NORMAL", "PNEUMONIA"], "PNEUMONIA", [])
    assert found["images"]["train"] == {"NORMAL": 13, "PNEUMONIA": 14}
    assert on_test["class_counts"] == {"NORMAL": 6, "PNEUMONIA": 6}
    assert (on_test["patients"], on_test["known_patients"]) == (6, 0)
    assert (on_test["opened_test"], on_test["test_access"]) == (True, 1)

    file.write_text("\n".join(line for line in file.read_text().splitlines() if "side:" not in line), encoding="utf-8")
    on_all = said("evaluate", "model", "--data", file)

    assert on_all["class_counts"] == {"NORMAL": 19, "PNEUMONIA": 20}
    assert (on_all["known_patients"], on_all["known_images"], on_all["opened_test"]) == (14, 27, False)
