"""Who is on an image, and which of two classes is the disease."""

import pytest

from tests.data.conftest import DataFolder, paths
from tests.pair_files import write_patients
from xraytune.base.errors import ConfigError, DataError, Problem
from xraytune.data.guesses import positive_class
from xraytune.data.patients import patients_by_regex
from xraytune.data.table import find_table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image;who\n1.png;a\n",
            "there is no column 'file' (data.table.image); found image, who\n"
            "  fix: make the first line: file,patient",
        ),
        ("", "there is no column 'file'"),
        ("file,patient\n1.png,M\xfcller\n", "not a table in UTF-8"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(
    kermany: DataFolder, text: str, message: str
) -> None:
    (kermany / "patients.csv").write_text(text, "latin-1")

    assert message in kermany.refusal()


def test_equal_ids_of_two_hospitals_may_get_the_hospital_before_them(official: DataFolder) -> None:
    files = sorted(file.relative_to(official) for file in official.rglob("*.jpeg"))
    write_patients(official, {file: number % 9 for number, file in enumerate(files)})

    refusal = official.refusal()
    assert "by ID or file, both in " in refusal
    assert "write the hospital before each ID" in refusal

    hospitals = {file: f"{file.parts[0]} {number % 9}" for number, file in enumerate(files)}
    write_patients(official, hospitals)
    assert len(official.index().test) == 2


def test_a_table_of_other_images_shows_how_it_names_them(xrays: DataFolder) -> None:
    xrays.images("NORMAL/1.png PNEUMONIA/2.png")
    xrays.table("file,patient", "x/7.png,p")

    assert "column file, which has x/7.png" in xrays.refusal()


@pytest.mark.parametrize("rule", ["table", "expression"])
def test_numbers_with_and_without_leading_zeros_are_one_patient(
    xrays: DataFolder, rule: str
) -> None:
    """Spreadsheets remove the zeros, and pandas writes floats."""
    names = ["0012", "12", "12.0", "00012", "0", "00", "120", "x12"]
    files = [f"NORMAL/{name}-{place}.png" for place, name in enumerate(names)]
    xrays.images([*files, "PNEUMONIA/7-1.png"])
    split = {"group_regex": "/([^/-]+)-"}
    if rule == "table":
        split = {}
        rows = [f"{file},{name}" for file, name in zip(files, names, strict=True)]
        xrays.table("file,patient", *rows, f"{files[0]},12", "PNEUMONIA/7-1.png,007")

    index = xrays.index(split=split)

    patients = [{image.file: image.patient for image in index.images}[file] for file in files]
    assert len({*patients[:4]}) == len({*patients[4:6]}) == 1
    assert len({*patients}) == 4
    assert "leading zeros" in " ".join(index.warnings)


def test_an_id_in_other_case_is_the_same_patient_on_one_side(xrays: DataFolder) -> None:
    """As COVID001 and Covid001 of a published split, which another program wrote."""
    files = paths("train/{NORMAL,PNEUMONIA}/{1,2}.png test/{NORMAL,PNEUMONIA}/3.png")
    xrays.images(files)

    def name_patients(*names: str) -> None:
        write_patients(xrays, dict(zip(files, names, strict=True)))

    name_patients("P1", "p1", "P3", "P4", "q5", "q6")
    index = xrays.index()
    assert [image.patient for image in index.images] == ["P1", "P1", "P3", "P4"]
    assert "P1 and p1" in " ".join(index.warnings)
    name_patients("P1", "p1", "P3", "P4", "q5", "p4")
    assert "both in training and in test" in xrays.refusal()


def test_images_of_our_own_generator_show_nobody(xrays: DataFolder) -> None:
    xrays.images("{NORMAL,PNEUMONIA}/gan_00000{0,1,2}.png")
    assert "do not name the patient" in " ".join(xrays.index().warnings)

    xrays.table("{}", name="provenance.json")

    assert xrays.index().warnings == ()


def test_an_expression_names_patients_by_its_first_group() -> None:
    named = patients_by_regex(r"(é\d+)", ["A/é1-left.png", "A/e\u03011-right.png", "B/é2.png"])

    assert [*named.values()] == ["é1", "é1", "é2"]
    with pytest.raises(DataError, match=r"no match: A/x\.png"):
        patients_by_regex(r"(p\d+)", ["A/p1.png", "A/x.png"])


def test_a_table_and_an_expression_together_are_refused(xrays: DataFolder) -> None:
    xrays.table("file,patient", "1.png,a")

    refusal = xrays.refusal(ConfigError, split={"group_regex": r"(\d)"})
    assert "both a table and data.split.group_regex" in refusal


@pytest.mark.parametrize("name", ["..", "../x", "/tmp/x", "a\\b", ".hidden", "a\x01b", "x" * 65])
def test_class_name_escaping_folder_is_refused_with_line(xrays: DataFolder, name: str) -> None:
    """Images are written into folders that are called like their classes."""
    xrays.table("file,patient,class", "a.png,p1,NORMAL", f"b.png,p2,{name}")

    with pytest.raises(DataError, match=r"csv:3: the class .* name of a folder"):
        find_table(xrays.settings())


@pytest.mark.parametrize(
    "pair",
    [
        *("NORMAL PNEUMONIA", "healthy cancer", "No_findings Pneumonia", "no-findings x", "0 1"),
        *("no yes", "negative positive", "Normals TB", "NoDisease Disease", "NonCOVID COVID"),
        *("non-covid covid", "covid_negative covid_positive", "no_tb tb", "uninfected infected"),
    ],
)
def test_the_other_class_than_a_healthy_one_is_positive(pair: str) -> None:
    healthy, ill = pair.split()

    assert positive_class(None, (healthy, ill)) == 1
    assert positive_class(None, (ill, healthy)) == 0
    assert positive_class(healthy, (ill, healthy)) == 1, "a given class comes first"
    assert positive_class(None, ("normal", "bacterial", "viral")) == 2
    problem = positive_class("viral", ("normal", "bacterial", "viral"))
    assert isinstance(problem, Problem)
    assert problem.fix == "remove it"


@pytest.mark.parametrize(
    "names",
    [
        *(("alpha", "beta"), ("covid", "tb"), ("normal", "healthy"), ("not normal", "ill")),
        ("COVID-19", "COVID-20"),
    ],
)
def test_otherwise_it_is_asked_for(names: tuple[str, str]) -> None:
    found = positive_class(None, names)

    assert isinstance(found, Problem)
    assert found.fix == f"use data.positive: {names[0]}, or data.positive: {names[1]}"
