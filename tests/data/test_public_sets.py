"""Layouts of public sets and exports, in miniature: read, or refused with a fix (docs/data.md)."""

import gzip
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from examples.convert_set import CONVERSIONS
from tests.data.conftest import DataFolder
from tests.pair_files import save
from xraytune.base.seeding import numpy_generator
from xraytune.data.guesses import PARTS
from xraytune.data.index import read_folder
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import DataSettings
from xraytune.space.load import data_settings

ROOT = Path(__file__).parents[2]
N = "{0,1,2,3}"
CLASSES = {"ILL": "PNEUMONIA", "NORMAL": "NORMAL"}
ALL_SIDES = {f"{part} {name}": 4 for part in ("train", "test") for name in ("NORMAL", "PNEUMONIA")}
ROBOFLOW = (
    "{train,test}/NORMAL/IM-000{1,2,3}-0001_jpeg.rf.0a.png "
    "{train,test}/PNEUMONIA/person1_virus_1_jpeg.rf.1b.png"
)
COVID_QU = "{Train,Val,Test}/{NORMAL,PNEUMONIA}/{images,lung_masks,infection_masks}/"


def table(files: list[str], image: str, label: str | None = None) -> dict[str, Any]:
    return {"table": {"file": files, "image": image, "label": label, "labels": CLASSES}}


def rows(header: str, *lines: str) -> str:
    """A table with each line four times, with 0 to 3 in the place of {n}."""
    return (
        "\n".join([header, *(line.format(n=number) for line in lines for number in range(4))])
        + "\n"
    )


MIMIC = {
    "split.csv": rows("dicom_id,study_id", "{n},{n}"),
    "labels.csv": rows("study_id,ILL,NORMAL", "{n},1,0"),
}
LABELS = "annotations/image_labels"
VINDR = {
    f"{LABELS}_train.csv": rows(
        "image_id,rad_id,Pneumonia,No finding", "a{n},1,1,0", "a{n},2,0,1", "b{n},1,0,1"
    ),
    f"{LABELS}_test.csv": rows("image_id,Pneumonia,No finding", "c{n},1,0", "d{n},0,1"),
}
SIIM = {
    "train-rle.csv": rows(
        "ImageId, EncodedPixels", "1.{n}, -1", "2.{n},{n} 20 30", "2.{n},{n} 50 60"
    )
}
LISTS = (
    "a{n}.png,a{n},PA,['normal']",
    "\"b{n}.png\",b{n},AP,\"['rib fracture', 'pneumonia']\"",
    "gone{n}.png,a{n},AP_horizontal,['normal']",
)
PADCHEST = {
    "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": rows(
        "ImageID,PatientID,Projection,Labels", *LISTS
    )
}
BIMCV = {
    "x/posi.tsv": rows(
        "PatientID\tReportID\tLabels", "S{n}\tE{n}\t['NORMAL']", "T{n}\tF{n}\t['ILL', 'b']"
    )
}
RSNA = (
    "a{n},Normal",
    "b{n},Lung Opacity",
    "b{n},Lung Opacity",
    "c{n},No Lung Opacity / Not Normal",
)


def chexpert(part: str, healthy: int, ill: int) -> str:
    """Four patients of each class with two views, of which the lateral ones are not used."""
    views = {
        f"{healthy}{{n}}/study1/view1_frontal.jpg": "Frontal,1.0,,0.0",
        f"{healthy}{{n}}/study1/view2_lateral.jpg": "Lateral,1.0,,0.0",
        f"{ill}{{n}}/study1/view1_frontal.jpg": "Frontal,,1.0,1.0",
        f"{ill}{{n}}/study1/view2_lateral.jpg": "Lateral,,,1.0",
    }
    lines = (f"CheXpert-v1.0-small/{part}/patient{view},{labels}" for view, labels in views.items())
    return rows("Path,Frontal/Lateral,No Finding,Lung Opacity,Pneumonia", *lines)


CHEXPERT = {"train.csv": chexpert("train", 1, 2), "valid.csv": chexpert("valid", 3, 4)}
VIEWS = f"{N}/study1/{{view1_frontal,view2_lateral}}.jpg"
LAYOUTS: dict[str, tuple[str, dict[str, str], dict[str, Any] | str, str | dict[str, int]]] = {
    "MIMIC-CXR": (
        "files/1.png",
        MIMIC,
        table([*MIMIC], "dicom_id"),
        "no column 'dicom_id'.*a table of patients or studies needs a row for each image",
    ),
    "VinDr-CXR": (f"train/{{a,b}}{N}.png test/{{c,d}}{N}.png", VINDR, "vindr_cxr.yaml", ALL_SIDES),
    "RSNA": (
        f"stage_2_train_images/{{a,b,c}}{N}.png stage_2_test_images/d.png",
        {"stage_2_detailed_class_info.csv": rows("patientId,class", *RSNA)},
        "rsna.yaml",
        {"train NORMAL": 4, "train PNEUMONIA": 4},
    ),
    "CheXpert": (
        f"train/patient{{1,2}}{VIEWS} valid/patient{{3,4}}{VIEWS}",
        CHEXPERT,
        "chexpert.yaml",
        ALL_SIDES,
    ),
    "SIIM": (
        f"images-train/x/{{1,2}}.{N}.png",
        SIIM,
        "siim.yaml",
        {"train NORMAL": 4, "train PNEUMOTHORAX": 4},
    ),
    "PadChest": (
        f"0/a{N}.png 54/b{N}.png",
        PADCHEST,
        "padchest.yaml",
        {"train NORMAL": 4, "train PNEUMONIA": 4},
    ),
    "COVID-QU-Ex": (
        COVID_QU + f"{N}.png",
        {},
        {},
        ALL_SIDES | {"val NORMAL": 4, "val PNEUMONIA": 4},
    ),
    "BIMCV": (
        "sub-S1/ses-E1/S1_E1.png",
        BIMCV,
        table([*BIMCV], "ReportID", "Labels"),
        "rows matches an image.*join a table of patients or studies with a list of images",
    ),
    "PneumoniaMNIST, JSRT": (
        "",
        {"a.npz": "", "b.IMG": "", "c.nii.gz": ""},
        {},
        ": 1 .img, 1 .nii.gz, 1 .npz\n.*Other fo",
    ),
    "Roboflow": (
        ROBOFLOW,
        {},
        {},
        "4 patients are, by ID or file, both in training and in test: IM:0001",
    ),
}


def counts(data: DataSettings) -> dict[str, int]:
    """Images by part and class."""
    index = read_folder(data)
    split_by_patient(index.images, data.split)
    return Counter(
        f"{image.part} {index.class_names[image.label]}" for image in (*index.images, *index.test)
    )


def shipped(name: str, folder: Path) -> DataSettings:
    """What a shipped data file says about the folder that it is copied to."""
    return data_settings(
        Path(shutil.copy(ROOT / "search_spaces/data" / name, folder)), DataSettings(path=folder)
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_public_layout_is_read_or_refused(xrays: DataFolder, name: str) -> None:
    files, tables, settings, outcome = LAYOUTS[name]
    xrays.images(files)
    for file, text in tables.items():
        xrays.write(file, text.encode())

    if isinstance(settings, str):
        assert counts(shipped(settings, xrays)) == outcome
    elif isinstance(outcome, dict):
        assert counts(xrays.settings(**settings)) == outcome
    else:
        refusal = xrays.refusal(**settings)
        assert re.search(outcome, refusal, re.DOTALL | re.MULTILINE)
        assert refusal.count("fix: ") == 1


@pytest.mark.slow
def test_what_the_example_joins_and_converts_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All conversions of convert_set.py, each in a folder of its own."""
    DataFolder(tmp_path).images(f"mimic_cxr/{{a,b}}{N}.png bimcv/sub-S{{1,2}}{N}/ses-E/x.png")
    for file in sorted(tmp_path.glob("bimcv/*/ses-E/x.png")):
        file.rename(file.with_name(f"ses-E{file.parts[-3][-2:]}.png"))
    split = rows(
        "dicom_id,study_id,subject_id,split", "a{n},1{n},1{n},train", "b{n},2{n},2{n},validate"
    )
    labels = rows("subject_id,study_id,Pneumonia,No Finding", "1{n},1{n},1,", "2{n},2{n},,1")
    for name, text in (("split", split), ("chexpert", labels)):
        (tmp_path / f"mimic_cxr/mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(
            gzip.compress(text.encode())
        )
    studies = rows(
        "PatientID\tReportID\tLabels",
        "S1{n}\tE1{n}\t['normal']",
        "S2{n}\tE2{n}\t['pneumonia', 'b']",
    )
    for folder in ("bimcv/derivatives/labels", "mnist", "chest", "jsrt/All247images"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bimcv/derivatives/labels/labels_covid19_posi.tsv").write_text(studies)
    pixels = numpy_generator(0, "mnist").integers(0, 256, (24, 28, 28), dtype=np.uint8)
    arrays: dict[str, Any] = {
        f"{part}_images": pixels[8 * n : 8 * n + 8] for n, part in enumerate(PARTS)
    }
    arrays |= {f"{part}_labels": np.arange(8)[:, None] % 2 for part in PARTS}
    np.savez(tmp_path / "mnist/pneumoniamnist.npz", **arrays)
    arrays |= {f"{part}_labels": np.eye(8, 14, dtype=np.uint8) for part in PARTS}
    for name in ("chest/chestmnist.npz", "chest/pneumoniamnist.npz"):
        np.savez(tmp_path / name, **arrays)
    for number in range(3):
        np.full((2048, 2048), 4000 + number, dtype=">u2").tofile(
            tmp_path / f"jsrt/All247images/{number}.IMG"
        )
        save(tmp_path / f"jsrt/masks/left lung/{number}.gif", np.eye(1024, dtype=np.bool_))

    folders = ("mimic_cxr", "bimcv", "mnist", "chest", "jsrt")
    for name, convert in zip(folders, CONVERSIONS.values(), strict=True):
        monkeypatch.chdir(tmp_path / name)
        convert()

    for name in ("mimic_cxr", "bimcv"):
        found = counts(shipped(f"{name}.yaml", tmp_path / name))
        assert (found["train PNEUMONIA"], sum(found.values())) == (4, 8)
    assert {*counts(DataSettings(path=tmp_path / "mnist/pneumoniamnist")).values()} == {4}
    chest = tmp_path / "chest/chestmnist/data.yaml"
    assert len(read_folder(data_settings(chest, DataSettings(path=chest))).findings) == 8
    monkeypatch.chdir(tmp_path / "chest")
    with pytest.raises(AssertionError, match="not one label per image"):
        CONVERSIONS["pneumoniamnist"]()
    assert counts(DataSettings(path=tmp_path / "jsrt")) == {"train image": 3}
