"""The layouts of public sets and exports, in miniature: each is read, or refused with a fix that works (docs/data.md)."""

import gzip
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.conftest import WriteImages
from tests.data.test_index import paths
from tests.pair_files import save
from xraytune.base.errors import DataError
from xraytune.data.guesses import PARTS
from xraytune.data.index import read_folder
from xraytune.data.split import split_by_patient
from xraytune.space.load import data_settings
from xraytune.space.settings import DataSettings

N = "{0,1,2,3}"
JOIN = "a table of patients or studies needs a row for each image"
NO_CLASS = (
    "none of the 4 images has a class, .*put the images of each class into a folder of its own, or give patients.csv"
)
MASS = {"Mass": "PNEUMONIA", "No finding": "NORMAL"}
BOTH = {"PNEUMONIA": "PNEUMONIA", "NORMAL": "NORMAL"}


def table(file: str | list[str], image: str, labels: dict[str, str], label: str | None = None) -> dict[str, Any]:
    return {"table": {"file": file, "image": image, "label": label, "labels": labels}}


def rows(header: str, *lines: str) -> str:
    """A table with each line four times, with 0 to 3 in the place of {n}."""
    return "\n".join([header, *(line.format(n=number) for line in lines for number in range(4))]) + "\n"


def counts(data: DataSettings) -> dict[str, int]:
    """Images by part and class."""
    index = read_folder(data)
    split_by_patient(index.images, data.split)
    return Counter(f"{image.part} {index.class_names[image.label]}" for image in (*index.images, *index.test))


MIMIC = {"split.csv": rows("dicom_id,study_id", "d{n},{n}"), "chexpert.csv": rows("study_id,Mass", "{n},1")}
VINDR = {
    "a/train.csv": rows("id,rad_id,Mass,No finding", "a{n},R1,1,0", "a{n},R2,0,1", "b{n},R1,0,1"),
    "a/test.csv": rows("id,Mass,No finding", "c{n},1,0", "d{n},0,1"),
}
SIIM = {"rle.csv": rows("ImageId, EncodedPixels", "1.{n}, -1", "2.{n},{n} 20 30", "2.{n},{n} 50 60")}
BIMCV = {"x/posi.tsv": rows("PatientID\tReportID\tLabels", "S{n}\tE{n}\t['normal']")}
ROBOFLOW = {
    f"{part}/_classes.csv": rows("filename, NORMAL, PNEUMONIA", f"{part}a{{n}}.png,1,0", f"{part}b{{n}}.png,0,1")
    for part in ("train", "test")
}
COVID_QU = "{Train,Val,Test}/{COVID-19,Normal}/{images,lung_masks,infection_masks}/"
ALL_SIDES = {f"{part} {name}": 4 for part in ("train", "test") for name in BOTH}


@pytest.mark.parametrize(
    ("files", "tables", "settings", "outcome"),
    [
        pytest.param(
            "archive/chest_xray/{train,test}/NORMAL/1.png", {}, {}, "fix: give .*/archive/chest_xray$", id="Kaggle"
        ),
        pytest.param(
            f"files/p10/p1{N}/s50/d{N}.png",
            MIMIC,
            table([*MIMIC], "dicom_id", {"Mass": "ill"}),
            f"no column 'dicom_id'.*{JOIN}",
            id="MIMIC-CXR",
        ),
        pytest.param(
            f"train/{{a,b}}{N}.png test/{{c,d}}{N}.png", VINDR, table([*VINDR], "id", MASS), ALL_SIDES, id="VinDr"
        ),
        pytest.param(
            f"images-train/x/{{1,2}}.{N}.png",
            SIIM,
            table("rle.csv", "ImageId", {"-1": "NORMAL", "*": "PNEUMONIA"}, "EncodedPixels"),
            {"train NORMAL": 4, "train PNEUMONIA": 4},
            id="SIIM",
        ),
        pytest.param(
            COVID_QU + f"{N}.png",
            {},
            {"classes": "auto"},
            {f"{part} {name}": 4 for part in ("train", "val", "test") for name in ("COVID-19", "Normal")},
            id="COVID-QU-Ex",
        ),
        pytest.param(f"Lung/Lung/{COVID_QU}1.png", {}, {}, "fix: give .*/Lung/Lung$", id="its archive"),
        pytest.param(
            f"sub-S{N}/ses-E{N}/mod-rx/sub-S{N}_ses-E{N}_dx.png",
            BIMCV,
            table([*BIMCV], "ReportID", {"normal": "NORMAL"}, "Labels"),
            f"none of its 4 rows matches an image.*{JOIN}",
            id="BIMCV",
        ),
        pytest.param(f"CHNCXR_{N}_1.png", {"a.txt": "x"}, {}, NO_CLASS, id="Shenzhen, medigan"),
        pytest.param(
            "",
            {"pneumoniamnist.npz": "x", "a.zip": "", "b.nii.gz": ""},
            {},
            "no images in it; .*: 1 .nii.gz, 1 .npz, 1 .zip\n  fix: .*Other formats",
            id="PneumoniaMNIST, JSRT",
        ),
        pytest.param(
            f"{{train,test}}/NORMAL/IM-000{N}-0001_jpeg.rf.0a.png {{train,test}}/PNEUMONIA/person{N}_virus_1_jpeg.rf.1b.png",
            {},
            {},
            "patients are both in training and in test",
            id="Roboflow, augmented",
        ),
        pytest.param(
            f"train/train{{a,b}}{N}.png test/test{{a,b}}{N}.png",
            ROBOFLOW,
            table([*ROBOFLOW], "filename", BOTH),
            ALL_SIDES,
            id="Roboflow, a table for each part",
        ),
        pytest.param(
            f"imagesTr/a{N}_0000.png labelsTr/a{N}.png imagesTs/b_0000.png",
            {},
            {"classes": "auto"},
            "imagesTr: there are no class folders",
            id="nnU-Net",
        ),
        pytest.param(
            f"images/{N}.png", {"labels.xlsx": "PK"}, {}, "describe labels.xlsx in a data file", id="a spreadsheet"
        ),
        pytest.param(
            "a.png",
            {"l.csv.gz": "\x1f\udc8b"},
            table("l.csv.gz", "a", {"b": "c"}),
            "unpack it \\(gunzip\\)",
            id="a packed table",
        ),
    ],
)
def test_a_public_layout_is_read_or_refused(
    tmp_path: Path,
    write: WriteImages,
    files: str,
    tables: dict[str, str],
    settings: dict[str, Any],
    outcome: str | dict[str, int],
) -> None:
    write(tmp_path, paths(files))
    for name, text in tables.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    data = DataSettings.model_validate({"path": tmp_path, **settings})

    if isinstance(outcome, dict):
        assert counts(data) == outcome
    else:
        with pytest.raises(DataError, match=f"(?sm){outcome}") as refusal:
            counts(data)
        assert str(refusal.value).count("fix: ") == 1


@pytest.mark.slow
def test_what_the_page_converts_and_joins_is_read(
    tmp_path: Path, write: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks of docs/data.md, in their order, each in a folder of its own."""
    root, numbers = Path(__file__).parents[2], range(8)
    write(tmp_path, (f"mimic_cxr/files/{n}.png" for n in numbers))
    write(tmp_path, (f"bimcv/sub-S{n}/ses-E{n}/mod-rx/sub-S{n}_ses-E{n}_dx.png" for n in numbers))
    for folder in ("bimcv/derivatives/labels", "npz", "jsrt/All247images"):
        (tmp_path / folder).mkdir(parents=True)
    tables = {
        "split": [
            "dicom_id,study_id,subject_id,split",
            *(f"{n},{n},{n},{'test' if n < 2 else 'train'}" for n in numbers),
        ],
        "chexpert": ["subject_id,study_id,Pneumonia,No Finding", *(f"{n},{n},{n % 2},{1 - n % 2}" for n in numbers)],
    }
    for name, lines in tables.items():
        (tmp_path / f"mimic_cxr/mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    labels = "".join(f"S{n}\tE{n}\t{['pneumonia', 'fibrosis'] if n % 2 else ['normal']}\n" for n in numbers)
    (tmp_path / "bimcv/derivatives/labels/labels_covid19_posi.tsv").write_text(f"PatientID\tReportID\tLabels\n{labels}")
    arrays = {f"{part}_images": np.arange(8 * 784).reshape(8, 28, 28) + n for n, part in enumerate(PARTS)}
    arrays |= {f"{part}_labels": np.arange(8)[:, None] % 2 for part in PARTS}
    np.savez(tmp_path / "npz/pneumoniamnist.npz", **{name: array.astype(np.uint8) for name, array in arrays.items()})
    for number in range(3):
        np.full((2048, 2048), 4000 + number, dtype=">u2").tofile(tmp_path / f"jsrt/All247images/{number}.IMG")
        save(tmp_path / f"jsrt/masks/left lung/{number}.gif", np.eye(1024, dtype=np.bool_))

    blocks = re.findall(
        r"^```python\n(.*?)^```", (root / "docs/data.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    for name, block in zip(("mimic_cxr", "bimcv", "npz", "jsrt"), blocks, strict=True):
        monkeypatch.chdir(tmp_path / name)
        exec(compile(block, "docs/data.md", "exec"), {})

    found = {}
    for name in ("mimic_cxr", "bimcv"):
        file = shutil.copy(root / f"search_spaces/data/{name}.yaml", tmp_path / name)
        found[name] = counts(data_settings(Path(file), DataSettings(path=tmp_path)))
    assert found["mimic_cxr"] == {"train NORMAL": 3, "train PNEUMONIA": 3, "test NORMAL": 1, "test PNEUMONIA": 1}
    assert found["bimcv"] == {"train NORMAL": 4, "train PNEUMONIA": 4}
    assert {*counts(DataSettings(path=tmp_path / "npz/pneumoniamnist")).values()} == {4}
    assert counts(DataSettings(path=tmp_path / "jsrt")) == {"train image": 3}
