"""Findings of public sets, in miniature: present, absent, unknown, or refused."""

import re
from typing import Any

import numpy as np
import pytest

from tests.data.conftest import DataFolder
from xraytune.base.seeding import numpy_generator
from xraytune.data.findings import in_order_of
from xraytune.data.images import ImageFile, ImageIndex, ImageTable
from xraytune.data.index import read_labelled
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import SplitSettings

FILES = "{a,b,c,d}.png"
CHEXPERT = """\
Path,Sex,Frontal/Lateral,No Finding,Edema,Mass
CheXpert-v1.0-small/train/a.png,Male,Frontal,1.0,,
CheXpert-v1.0-small/train/b.png,Female,Frontal,,1.0,0.0
CheXpert-v1.0-small/train/c.png,Male,Frontal,,-1.0,1.0
CheXpert-v1.0-small/train/d.png,Male,Lateral,,0.0,1.0"""
NIH = """\
Image Index,Finding Labels
a.png,No Finding
b.png,Edema|Mass
c.png,Mass
d.png,Edema"""
PADCHEST = """\
ImageID,Projection,Labels
a.png,PA,['normal']
"b.png",AP,"['edema', 'mass']"
c.png,PA,['mass ']
d.png,L,"""
VINDR = "image_id,rad_id,Edema,Mass a,1,1,0 a,2,0,0 a,3,0,0 b,1,0,1 b,2,0,1 c,1,1,1 d,1,0,0"
WORDS = "image,Edema,Mass a,Positive,no b,NEGATIVE,Yes c,Uncertain,TRUE d,maybe,absent"
ED_MASS: dict[str, Any] = {"findings": ["Edema", "Mass"]}
NO_MASS: dict[str, Any] = {"findings": ["No Finding", "Mass"]}
AUTO: dict[str, Any] = {"findings": "auto"}
PATH = {"image": "Path"}
IMAGE = {"image": "image"}
LABELS = {"image": "Image Index", "label": "Finding Labels"}
PAD = {"image": "ImageID", "label": "Labels"}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "CheXpert, empty is unknown": (CHEXPERT, PATH, ED_MASS, "b10 c?1 d01"),
    "CheXpert, empty is absent": (CHEXPERT, PATH, ED_MASS | {"empty": "zeros"}, "a00 b10 c?1 d01"),
    "CheXpert, U-Ones": (CHEXPERT, PATH, ED_MASS | {"uncertain": "ones"}, "b10 c11 d01"),
    "CheXpert, by finding": (
        CHEXPERT,
        PATH,
        ED_MASS | {"uncertain": {"Edema": "zeros"}},
        "b10 c01 d01",
    ),
    "CheXpert, frontal": (
        CHEXPERT,
        PATH | {"rows": {"Frontal/Lateral": "frontal"}},
        ED_MASS | {"empty": "zeros"},
        "a00 b10 c?1",
    ),
    "CheXpert, auto": (CHEXPERT, PATH, AUTO | {"empty": "zeros"}, "a100 b010 c0?1 d001"),
    "No Finding is derived": (
        "image,Edema,Mass a,0,0 b,1,0 c,-1,0 d,0,1",
        IMAGE,
        {"findings": ["No Finding", "Edema", "Mass"]},
        "a100 b010 c??0 d001",
    ),
    "NIH": (NIH, LABELS, ED_MASS, "a00 b11 c01 d10"),
    "NIH, other labels alone are unknown": (NIH, LABELS, NO_MASS, "a10 b01 c01"),
    "NIH, other labels alone are absences": (
        NIH,
        LABELS,
        NO_MASS | {"empty": "zeros"},
        "a10 b01 c01 d00",
    ),
    **{
        f"labels with {separator!r} between, {data['findings']}": (
            NIH.replace("Edema|Mass", f'"Edema{separator}Mass"'),
            LABELS,
            data,
            "a00 b11 c01 d10",
        )
        for separator in ("|", ", ", ";", "#", "/", " + ")
        for data in (ED_MASS, AUTO)
    },
    "a given separator": (
        "Image Index,Finding Labels\na.png,No Finding\nb.png,Edema Mass\nc.png,Mass",
        LABELS | {"separator": " "},
        ED_MASS,
        "a00 b11 c01",
    ),
    "blanks may separate labels": (
        NIH.replace("|", " "),
        LABELS,
        AUTO,
        "'Edema Mass' consists of labels of other cells.*set data.table.separator to ' '",
    ),
    "what no label says is unknown": (
        "Image Index,Finding Labels\na,Normal\nb,Edema|old Mass\nc,mass|Edema?\nd,nan\ne,report",
        LABELS,
        ED_MASS,
        "a00 b1? c?1",
    ),
    "PadChest, auto and views": (
        PADCHEST,
        PAD | {"rows": {"Projection": ["PA", "AP"]}},
        AUTO,
        "a00 b11 c01",
    ),
    "VinDr, one reader suffices": (VINDR, {"image": "image_id"}, ED_MASS, "a10 b01 c11 d00"),
    "words": (WORDS, IMAGE, ED_MASS, "a10 b01 c?1 d?0"),
    "never present": (
        "image,Edema,Mass a,1,0 b,0,",
        IMAGE,
        ED_MASS,
        "Mass is present in 0 and absent in 1",
    ),
    "all unknown": (
        "image,Edema,Mass a,-1,1 b,,0",
        IMAGE,
        ED_MASS,
        "Edema is present in 0 and absent in 0",
    ),
    "misspelt": (
        CHEXPERT,
        PATH,
        {"findings": ["Edma", "Mass"], "empty": "zeros"},
        "Edma is present in 0.*did you mean 'Edema'",
    ),
    "a single one": (
        "image,Edema a,1 b,0",
        IMAGE,
        AUTO,
        "finds Edema.*use task: classification",
    ),
    "no such view": (
        PADCHEST,
        PAD | {"rows": {"Projection": ["PA", "APP"]}},
        AUTO,
        "no cell of column Projection is 'APP'.*did you mean 'AP'",
    ),
    "misspelt among the uncertain": (
        CHEXPERT,
        PATH,
        ED_MASS | {"uncertain": {"Edma": "ones"}},
        r"no column 'Edma' \(data\.uncertain\.Edma\).*did you mean 'Edema'",
    ),
    "misspelt label": (NIH, LABELS, {"findings": ["Edma", "Mass"]}, "did you mean 'Edema'"),
}
"""What a table says, how it is described, and which findings of each image result."""


def described(
    root: DataFolder, text: str, table: dict[str, Any], data: dict[str, Any]
) -> dict[str, Any]:
    """Write a table, one row per line or, without line feeds, per word; return its settings."""
    root.images(FILES)
    root.table(*(text.splitlines() if "\n" in text else text.split()), name="labels.csv")
    return {"table": {"file": "labels.csv", **table}, **data}


def found(index: ImageIndex) -> str:
    return " ".join(f"{image.file[0]}{image.findings}" for image in (*index.images, *index.test))


@pytest.mark.parametrize("name", CASES)
def test_findings_of_a_public_table_are_read_or_refused(xrays: DataFolder, name: str) -> None:
    text, table, data, expected = CASES[name]
    settings = described(xrays, text, table, data)
    if expected[1] in "01?":
        assert found(xrays.index(**settings)) == expected
    else:
        assert re.search(expected, xrays.refusal(**settings), re.DOTALL)


def test_tables_are_joined_by_image_and_rows_chosen_by_either(xrays: DataFolder) -> None:
    """MIMIC-CXR: the labels in one table, the views in another."""
    table = {
        "file": ["labels.csv", "views.csv"],
        "image": "dicom_id",
        "rows": {"ViewPosition": ["PA", "AP"]},
    }
    labels = "dicom_id,Edema,Mass a,1, b,0,1 c,1,1 d,-1,0"
    settings = described(xrays, labels, table, ED_MASS | {"empty": "zeros"})
    xrays.table(*"dicom_id,ViewPosition a,PA b,AP c,LATERAL d,PA".split(), name="views.csv")

    index = xrays.index(**settings)

    assert found(index) == "a10 b01 d?0"
    assert "images by data.table.rows: 1 (ViewPosition LATERAL 1)" in " ".join(index.warnings)


def test_columns_that_are_no_findings_are_listed(xrays: DataFolder) -> None:
    """A finding of both sides is no view, and initials of a reviewer are none either."""
    text = """\
image,reviewer,ViewPosition,Bilateral_Opacities,Unilateral effusion,Mass
a,L,PA,1,0,1
b,CT,PA,0,1,0
c,RL,PA,1,0,0
d,AB,LL,0,0,1"""

    index = xrays.index(**described(xrays, text, IMAGE, AUTO))

    assert index.findings == ("Bilateral_Opacities", "Unilateral effusion", "Mass")
    notes = " ".join(index.warnings)
    assert "leaves out the columns reviewer, ViewPosition" in notes
    assert "1 of 4 images are lateral views" in notes


def test_a_table_of_another_hospital_may_lack_findings_of_the_model(xrays: DataFolder) -> None:
    described(xrays, WORDS, IMAGE, {})
    xrays.table("data: {table: {file: labels.csv, image: image}}", name="data.yaml")

    labelled = read_labelled(xrays / "data.yaml", ("Fracture", "Mass"), "findings")

    assert [image.findings for image in labelled.images] == ["?0", "?1", "?1", "?0"]


def test_the_findings_of_a_generator_that_a_study_has_not_are_absent() -> None:
    """Except `No Finding`, where no other is present."""
    findings = np.array([[0, 1], [0, -1], [1, 0]])
    learnt = in_order_of(["Mass", "No Finding", "Edema", "Fracture"], ["Edema", "Mass"], findings)
    assert learnt.tolist() == [[1, 0, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0]]


def test_patients_are_split_evenly_by_finding() -> None:
    """Fourteen findings that occur together: each side has its share of the positives of each."""
    rng = numpy_generator(0, "findings")
    severity = rng.normal(size=(2000, 1))
    noise = rng.normal(size=(2000, 14))
    depths = severity + noise
    has = depths > np.quantile(depths, 1 - np.linspace(0.02, 0.4, 14), axis=0).diagonal()
    images = ImageTable(
        ImageFile(file=f"{n}_{k}", label=0, patient=f"p{n}", findings="".join(map(str, row)))
        for n, row in enumerate(has.astype(int).tolist())
        for k in range(1 + n % 3)
    )

    sides = np.array(split_by_patient(images, SplitSettings(val_a=0.2, val_b=0.2)))

    on_side = [sides == side for side in ("train", "val_a", "val_b")]
    patients = np.array(images.patients)
    assert sum(len(np.unique(patients[places])) for places in on_side) == 2000
    shares = np.array([images.targets[places].sum(axis=0) for places in on_side])
    shares = shares / images.targets.sum(axis=0)
    assert np.abs(shares - np.array([[0.6], [0.2], [0.2]])).max() < 0.04
