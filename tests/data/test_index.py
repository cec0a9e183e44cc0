"""From a folder to a list of images, and every folder that is refused."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.conftest import DataFolder, labels_of
from xraytune.base.errors import DataError
from xraytune.data.index import read_index, read_labelled
from xraytune.space.data_settings import DataSettings

CLASSES = ("NORMAL", "PNEUMONIA")
THREE = ("normal", "bacterial", "viral")
PAIR = "{NORMAL,PNEUMONIA}/{a,b,c}"
KERMANY = "NORMAL/IM-000{1,2,3}-0001.png PNEUMONIA/person{1,2,3}_virus_{1,2,3}.png"
UNKNOWN = "images are in none of the classes NORMAL, PNEUMONIA, or in two: "


def case(files: str, *words: str, table: str = "", **settings: Any) -> Any:
    """A folder with these files and rows of `patients.csv` is refused with these words."""
    return pytest.param(files, table, settings, words, id=words[0])


@pytest.mark.parametrize(
    ("files", "table", "settings", "words"),
    [
        case("", "no images in it\n  fix: put images there"),
        case("PNEUMONIA/{a,b}.png", "fewer than two classes: PNEUMONIA"),
        case("a/{NORMAL,TB}/{1,2}.png b/NORMAL/3.png", "a, b would be classes", classes="auto"),
        case("{a,b,c}/{tb,covid}/1.png", "contain the folders covid, tb", classes="auto"),
        case("{covid,tb}/{1,2}.png old/covid/3.png", "old would be classes", classes="auto"),
        case(
            f"study{{{','.join(map(str, range(21)))}}}/{{1,2}}.png",
            "21 folders with 42 images would be classes",
            classes="auto",
        ),
        case(f"{PAIR}.png chest_xray/{PAIR}.png", "chest_xray/ seems to be a copy"),
        case("set/{A,B}/{a,b}.png", "fewer than two classes: set", classes="auto"),
        case(
            f"train/{KERMANY.replace(' ', ' train/')} "
            "train/PNEUMONIA/person9_bacteria_{1,2,3}.png "
            "test/NORMAL/IM-0090-0001.png test/PNEUMONIA/person90_bacteria_90.png",
            "test: no test images of viral",
            classes="three",
        ),
        case(
            f"train/{PAIR}.png test/{{COVID,PNEUMONIA}}/d.png",
            f"1 {UNKNOWN}test/COVID/d.png; folders found: COVID, NORMAL, PNEUMONIA",
        ),
        case("{NORMAL,BACTERIA,VIRUS}/{a,b}.png", f"4 {UNKNOWN}", classes="binary"),
        case(
            "{train,test}/{NORMAL,PNEUMONIA}/{1,2,3}.png", "6 images are in none", classes="three"
        ),
        case("{a,b,c}.png", "fewer than two classes: none"),
        case(f"{{val,test}}/{PAIR}.png", "val/ and test/ but no train/"),
        case(f"train/{PAIR}.png {{test,Testing}}/{PAIR}.png", "Testing/ and test/ are both test"),
        case(
            "a/b/c/{train,test}/{NORMAL,PNEUMONIA}/a.png", "it contains a/b/c/test/, a/b/c/train/"
        ),
        case("{NORMAL,PNEUMONIA}/{train,test}/a.png", "move train/ and test/ above them"),
        case(
            "{a,b,c}.png",
            f"1 {UNKNOWN}c.png (odd in patients.csv)",
            table="a.png,p1,NORMAL b.png,p2,PNEUMONIA c.png,p3,odd",
            classes="binary",
        ),
        case(
            "NORMAL/a.png PNEUMONIA/b.png",
            f"1 {UNKNOWN}NORMAL/a.png (PNEUMONIA in patients.csv)",
            table="a.png,p1,PNEUMONIA b.png,p2,",
            classes="binary",
        ),
        case(
            f"{KERMANY} PNEUMONIA/IM-0001-0001.jpeg",
            "NORMAL/IM-0001-0001.png and PNEUMONIA/IM-0001-0001.jpeg",
        ),
        case(f"{PAIR}.png NORMAL/a.jpeg", "NORMAL/a.jpeg and NORMAL/a.png"),
        case(
            "NORMAL/{a,b}.png PNEUMONIA/c.png",
            "has 1 patient: none",
            table="a.png,x b.png,x c.png,x",
        ),
    ],
)
def test_a_folder_is_refused_with_one_problem(
    xrays: DataFolder, files: str, table: str, settings: dict[str, Any], words: tuple[str, ...]
) -> None:
    xrays.images(files)
    if table:
        rows = table.split()
        header = "file,patient,class" if rows[0].count(",") == 2 else "file,patient"
        xrays.table(header, *rows)
    xrays.mkdir(exist_ok=True)

    message = xrays.refusal(**settings)

    assert all(word in message for word in words), message
    assert message.count("fix:") == 1


def test_one_folder_of_class_folders_is_all_training(kermany: DataFolder) -> None:
    calls: list[tuple[str, int, int]] = []
    index = read_index(DataSettings(path=kermany), on_progress=lambda *call: calls.append(call))

    assert (index.class_names, index.positive) == (CLASSES, 1)
    assert [image.file for image in index.images] == sorted(image.file for image in index.images)
    assert labels_of(index) == {0: 4, 1: 8}
    assert (index.test, index.test_fingerprint, index.warnings) == ((), None, ())
    first = index.images[0]
    assert (first.file, first.label, first.patient) == ("NORMAL/IM-0001-0001.jpeg", 0, "IM:0001")
    assert (first.width_px, first.height_px, len(first.sha256)) == (16, 12, 64)
    assert calls[-1] == ("reading images", 12, 12)


def test_val_is_folded_into_training_and_test_is_kept_apart(official: DataFolder) -> None:
    index = official.index()

    assert len(index.images) == 14
    assert "val/NORMAL/IM-0050-0001.jpeg" in {image.file for image in index.images}
    tests = ["test/NORMAL/IM-0090-0001.jpeg", "test/PNEUMONIA/person90_virus_90.jpeg"]
    assert [image.file for image in index.test] == tests
    parts = Counter(image.part for image in index.all_images)
    assert parts == {"train": 12, "val": 2, "test": 2}
    assert index.warnings == ()
    shutil.rmtree(official / "test")
    assert "without test/ no images are held out" in official.index().warnings[0]


SITES = "NORMAL/a/b/{1,2,3} site1/NORMAL/{4,5,6} site2/2019/Pneumonia/{7,8,9} PNEUMONIA/{10,11,12}"
GERMS = "{BACTERIA,VIRUS}-{1,2,3}-0001.png"


@pytest.mark.parametrize(
    ("files", "classes", "names", "counts"),
    [
        (
            "NORMAL/IM-000{1,2,3}-0001.png PNEUMONIA/person{1,2,3}_{virus,bacteria}_1.png",
            "three",
            THREE,
            [3, 3, 3],
        ),
        ("Normal/{1,2,3}.png Bacterial/{4,5,6}.png virus/{7,8,9}.png", "three", THREE, [3, 3, 3]),
        (f"NORMAL/NORMAL-{{1,2,3}}-0001.png PNEUMONIA/{GERMS}", "three", THREE, [3, 3, 3]),
        ("NORMAL/{1,2}.png PNEUMONIA/{BACTERIA,VIRUS}/{a,b}.png", "three", THREE, [2, 2, 2]),
        ("{covid,normal,tb}/{a,b,c}.png", "auto", ("covid", "normal", "tb"), [3, 3, 3]),
        ("{e,d,c}/deep/er/{1,2,3}.png", "auto", ("c", "d", "e"), [3, 3, 3]),
        ("{e,d,c}/{0,1,2}/{1,2}.png", "auto", ("c", "d", "e"), [6, 6, 6]),
        ("{none,tb}/{none,other}/{1,2}.png", "auto", ("none", "tb"), [4, 4]),
        ("Train/{normal,Pneumonia}/{a,b,c}.PNG", "auto", CLASSES, [3, 3]),
        (SITES.replace("}", "}.png"), "auto", CLASSES, [6, 6]),
        ("IM-000{1,2,3}-0001.png person{1,2,3}_{virus,bacteria}_1.png", "auto", CLASSES, [3, 6]),
        ("{NORMAL,PNEUMONIA,TB}/{a,b,c}.png", "auto", (*CLASSES, "TB"), [3, 3, 3]),
        ("{No_findings,Pneumonia}/{a,b,c}.png", "auto", ("No_findings", "Pneumonia"), [3, 3]),
        ("IM-000{1,2,3}-0001.png person{1,2,3}_{virus,bacteria}_1.png", "three", THREE, [3, 3, 3]),
    ],
)
def test_classes_come_from_folders_or_file_names(
    xrays: DataFolder, files: str, classes: Any, names: tuple[str, ...], counts: list[int]
) -> None:
    xrays.images(files)

    index = xrays.index(classes=classes)

    assert (index.class_names, labels_of(index)) == (names, dict(enumerate(counts)))
    assert not [warning for warning in index.warnings if "ignored" in warning]


@pytest.mark.parametrize(
    ("folders", "pairs"),
    [
        ("{COVID19,Covid-19,Normal}", "COVID19 = Covid-19"),
        ("{Lung_Opacity,lung-opacity,Normal}", "Lung_Opacity = lung-opacity"),
        ("{Tuberculosis,Tuberclosis,Normal}", "Tuberclosis = Tuberculosis"),
        ("{stage_1,stage_2,Normal}", ""),
        ("{bacterial_pneumonia,viral_pneumonia,Normal}", ""),
    ],
)
def test_classes_with_nearly_equal_names_are_pointed_out(
    xrays: DataFolder, folders: str, pairs: str
) -> None:
    xrays.images(f"{folders}/{{a,b,c}}.png")

    notes = [note for note in xrays.index().warnings if "similar names" in note]

    assert [note.partition(": ")[2] for note in notes] == ([pairs] if pairs else [])


def test_masks_and_drawings_in_class_folders_are_left_out(xrays: DataFolder) -> None:
    """The layout of the COVID-19 Radiography set."""
    xrays.images("{COVID,Lung_Opacity,Normal}/{images,infection_masks,Heat-Maps}/{0,1,2}.png")
    xrays.images("overlays/a.png COVID/images/COVID-0_mask.png")
    (xrays / "TB").mkdir()

    index = xrays.index(classes="auto")

    assert index.class_names == ("COVID", "Lung_Opacity", "Normal")
    assert labels_of(index) == {0: 3, 1: 3, 2: 3}
    left_out = "masks or drawings are left out: COVID/Heat-Maps, COVID/images/COVID-0_mask.png, C"
    assert left_out in index.warnings[0]
    assert "folders without images are no classes: TB" in index.warnings


@pytest.mark.parametrize(
    "folder",
    ["generated", "train/Synthetic_images", "train/x/gan", "StyleGAN2", "dcgan_64", "recorded"],
)
def test_generated_images_inside_the_folder_of_real_ones_are_left_out(
    xrays: DataFolder, folder: str
) -> None:
    inside = folder if folder.startswith("train") else f"train/{folder}"
    xrays.images("train/{NORMAL,PNEUMONIA}/{0,1,2}.png")
    (xrays / inside).images("{NORMAL,PNEUMONIA}/seed{0,1,2}.png")
    if folder == "recorded":
        (xrays / inside).table("{}", name="provenance.json")

    index = xrays.index()

    assert len(index.images) == 6
    assert f"generated images are left out: {inside.removeprefix('train/')}" in index.warnings[0]


def test_generated_images_inside_class_folders_and_folders_of_pairs_are_left_out(
    xrays: DataFolder, caplog: pytest.LogCaptureFixture
) -> None:
    xrays.images("a/{NORMAL,PNEUMONIA}/{1,2,3,fake/4}.png b/{images,masks}/{1,2,3,generated/4}.png")

    classes = (xrays / "a").index()
    pairs = (xrays / "b").index(pairs=True)

    assert (len(classes.images), len(pairs.images)) == (6, 3)
    assert "NORMAL/fake, PNEUMONIA/fake" in classes.warnings[0]
    assert "images: generated images are left out: generated" in caplog.text


def test_class_folders_inside_another_folder_next_to_them_are_noted(xrays: DataFolder) -> None:
    """They may be generated, or copies."""
    xrays.images("{NORMAL,PNEUMONIA}/{1,2,3}.png outputs/{NORMAL,PNEUMONIA}/{4,5,6}.png")

    index = xrays.index()

    assert len(index.images) == 12
    assert "both in it and in outputs" in index.warnings[0]


@pytest.mark.parametrize(
    "words", ["train validation test", "TRAINING Valid Testing", "train_set dev TestSet"]
)
def test_part_folders_may_have_other_names(xrays: DataFolder, words: str) -> None:
    """Otherwise, the test images would be trained on."""
    for word in words.split():
        (xrays / word).images(f"{{NORMAL,PNEUMONIA}}/{word}{{0,1,2}}.png")

    index = xrays.index()

    assert [image.part for image in index.images].count("val") == 6
    assert {image.file.partition("/")[0] for image in index.test} == {words.split()[2]}


def test_other_files_are_ignored_and_counted(kermany: DataFolder) -> None:
    for name in ("notes.txt", ".DS_Store", "patients.csv"):  # read only beside the class folders
        (kermany / "NORMAL").table("x", name=name)
    kermany.images("odd.jpeg .hidden/IM-0098-0001.jpeg")

    index = kermany.index()

    assert len(index.images) == 12
    assert [warning.partition(": ")[2] for warning in index.warnings] == [
        "files without an image suffix are ignored: 1 .csv, 1 .txt",
        "1 (odd.jpeg)",
    ]


@pytest.mark.parametrize(
    "file",
    [
        "$RECYCLE.BIN/S-1-5-21/$R1.jpeg",
        "#recycle/NORMAL/IM-0098-0001.jpeg",
        "#recycle/train/NORMAL/IM-0098-0001.jpeg",
        "NORMAL/@eaDir/IM-0001-0001.jpeg/SYNOPHOTO_THUMB_M.jpg",
        "@Recycle/PNEUMONIA/person98_virus_98.jpeg",
    ],
)
@pytest.mark.parametrize("classes", ["binary", "auto"])
def test_deleted_images_and_thumbnails_are_left_out(
    kermany: DataFolder, file: str, classes: str
) -> None:
    """As Windows and network drives keep them."""
    kermany.images([file])

    index = kermany.index(classes=classes)

    assert (len(index.images), len(index.test)) == (12, 0)
    assert index.class_names == ("NORMAL", "PNEUMONIA")
    assert file.split("/")[file.startswith("NORMAL")] in " ".join(index.warnings)


def test_links_to_files_are_followed_and_links_to_folders_are_not(
    kermany: DataFolder, tmp_path: Path
) -> None:
    elsewhere = DataFolder(tmp_path / "elsewhere")
    links = DataFolder(tmp_path / "links")
    elsewhere.images("IM-0099-0001.jpeg")
    (kermany / "NORMAL/IM-0099-0001.jpeg").symlink_to(elsewhere / "IM-0099-0001.jpeg")
    (kermany / "NORMAL/more").symlink_to(elsewhere)

    index = kermany.index()

    assert len(index.images) == 13
    assert "links to folders are not followed: NORMAL/more" in index.warnings[0]
    links.mkdir()
    (links / "NORMAL").symlink_to(kermany / "NORMAL")
    assert "links to folders are not followed: NORMAL" in links.refusal()


def test_identical_files_share_a_patient_and_empty_ones_do_not(kermany: DataFolder) -> None:
    normal = kermany / "NORMAL"
    shutil.copy(normal / "IM-0001-0001.jpeg", normal / "IM-0033-0001.jpeg")
    shutil.copy(normal / "IM-0001-0001.jpeg", kermany / "PNEUMONIA/person9_virus_9.jpeg")
    for number in (2, 3):
        (normal / f"IM-000{number}-0001.jpeg").write_bytes(b"")

    index = kermany.index()

    patients = {image.file.partition("/")[2]: image.patient for image in index.images}
    assert patients["IM-0033-0001.jpeg"] == patients["person9_virus_9.jpeg"] == "IM:0001"
    assert (patients["IM-0002-0001.jpeg"], patients["IM-0003-0001.jpeg"]) == ("IM:0002", "IM:0003")
    note = "the same image is in two classes, or has other findings: NORMAL/IM-0001-0001.jpeg = NO"
    assert note in index.warnings[0]


@pytest.mark.parametrize("folder", ["", "images"])
def test_the_table_gives_the_classes_of_images_in_no_class_folder(
    xrays: DataFolder, folder: str
) -> None:
    """A class folder gives another class."""
    names = [f"{name}{i}" for name in ("sick", "well", "odd") for i in range(3)]
    (xrays / folder).images(f"{name}.png" for name in names)
    xrays.images("NEW/new{0,1,2}.png")
    rows = [f"{name}.png,p{name},{name[:-1]}" for name in names]
    xrays.table("file,patient,class", *rows, *(f"new{i}.png,pnew{i}," for i in range(3)))

    index = xrays.index(classes="auto")

    assert index.class_names == ("NEW", "odd", "sick", "well")
    assert labels_of(index) == dict.fromkeys(range(4), 3)
    assert all(image.patient == f"p{Path(image.file).stem}" for image in index.images)


def test_patients_in_training_and_in_test_are_named(official: DataFolder) -> None:
    official.images("test/NORMAL/IM-0001-0001-0002.jpeg")
    shutil.copy(
        official / "val/PNEUMONIA/person50_virus_50.jpeg",
        official / "test/PNEUMONIA/person77_virus_77.jpeg",
    )

    message = official.refusal()

    for words in (
        "both in training and in test: IM:0001",
        "IM:0001 (train/NORMAL/IM-0001-0001.jpeg, test/NORMAL/IM-0001-0001-0002.jpeg)",
        "virus:50 (val/PNEUMONIA/person50_virus_50.jpeg, test/PNEUMONIA/person77_virus_77.jpeg)",
    ):
        assert words in message


def test_a_labelled_folder_can_lack_a_class_but_has_no_other(kermany: DataFolder) -> None:
    """A model has its classes: choosing others is no way out."""
    shutil.rmtree(kermany / "NORMAL")
    assert {image.label for image in read_labelled(kermany, CLASSES).images} == {1}
    kermany.images("COVID/c.png")

    with pytest.raises(DataError, match=r"or move them away$"):
        read_labelled(kermany, CLASSES)


def test_a_link_to_test_images_is_read_where_it_leads(xrays: DataFolder, tmp_path: Path) -> None:
    """Another folder with the name of the link may be there."""
    xrays.images("{test,later}/{NORMAL,PNEUMONIA}/p{1,2}_1.png later/NORMAL/p3_1.png")
    (tmp_path / "test").symlink_to(xrays / "later")

    labelled = read_labelled(tmp_path / "test", CLASSES, group_regex="(p[0-9])_")

    assert len(labelled.images) == 5
    assert all((xrays / image.file).is_relative_to(xrays / "later") for image in labelled.images)
