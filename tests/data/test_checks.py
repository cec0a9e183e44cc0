"""What images say against their names and folders."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pair_files import draw_xrays
from xraytune.base.arrays import UInt8Array
from xraytune.base.seeding import numpy_generator
from xraytune.data.checks import check_content
from xraytune.data.decoding import GreyImage, decode_files
from xraytune.data.images import ImageTable
from xraytune.data.index import read_index
from xraytune.data.patients import match_patients
from xraytune.space.data_settings import DataSettings
from xraytune.space.load import load_space
from xraytune.trial.preflight import prepare_space

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared/data"
STRANGERS = "look no more alike than those of strangers"
ONE_PERSON = "look like those of one"
COPIES = "look like copies"


@cache
def decoded(root: Path) -> tuple[ImageTable, list[UInt8Array]]:
    """The training images of a folder, with their pixels."""
    images = read_index(DataSettings(path=root)).images
    files = [image.file for image in images]
    squares = decode_files(root, files, 64)
    return images, [square.pixels for square in squares if isinstance(square, GreyImage)]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms")
    draw_xrays(root, patients=200, image_size_px=64)
    return root / "xrays"


def notes_of(root: Path, group_regex: str | None) -> str:
    """What is said of the images if an expression names their patients."""
    images, pixels = decoded(root)
    if group_regex:
        patients = match_patients(group_regex, [image.file for image in images])
        images = ImageTable(replace(image, patient=patients[image.file]) for image in images)
    checks = check_content(images, pixels, ("NORMAL", "PNEUMONIA"), group_regex=group_regex)
    return "\n".join(checks.notes)


@pytest.mark.parametrize(
    ("group_regex", "note"),
    [
        pytest.param("(.+)", ONE_PERSON, id="each file"),
        pytest.param("(.+)", COPIES, id="each file, with copies"),
        pytest.param(r"(bacteria|virus|\d)[^/]*$", STRANGERS, id="first digit"),
        pytest.param(r"(\d)[.]jpeg", STRANGERS, id="last digit"),
    ],
)
def test_a_wrong_expression_is_contradicted_by_the_images(
    phantoms: Path, group_regex: str, note: str
) -> None:
    assert note in notes_of(phantoms, group_regex)


def test_the_right_patients_are_not_contradicted(phantoms: Path) -> None:
    assert notes_of(phantoms, None) == ""


@pytest.mark.skipif(not SHARED.exists(), reason="shared/data is not beside the clone")
@pytest.mark.parametrize(
    ("folder", "group_regex", "note"),
    [
        ("nih", None, ""),
        ("nih", "(.+)", ONE_PERSON),
        ("nih", r"_(\d{3})", STRANGERS),
        ("nih", r"/(\d{6})", STRANGERS),
        ("nih", r"(\d)_\d{3}", STRANGERS),
        ("sakha_tb", None, ""),
        ("sakha_tb", r"/([a-z]+\d)", STRANGERS),
    ],
)
def test_on_real_x_rays_only_a_wrong_expression_is_contradicted(
    folder: str, group_regex: str | None, note: str
) -> None:
    notes = notes_of(SHARED / folder, group_regex)

    assert note in notes
    assert bool(note) == bool(notes)


def write_noise(
    path: Path, number: int, *, width_px: int = 40, mode: str = "L", level: int = 100
) -> None:
    noise = numpy_generator(number, path.parent.name)
    shape = (40, width_px + int(noise.integers(-3, 4)))
    pixels = noise.integers(level, level + 100, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


OF_COVID: dict[str, dict[str, Any]] = {
    "": {},
    "file format": {"mode": "RGB"},
    "image size": {"width_px": 60},
    "grey levels": {"level": 130},
    "site": {},
}
"""How images of COVID are written, by the attribute that tells the classes."""


@pytest.mark.parametrize("attribute", OF_COVID)
def test_classes_that_one_attribute_tells_are_said_before_a_search(
    tmp_path: Path, attribute: str
) -> None:
    for name, options in (("COVID", OF_COVID[attribute]), ("NORMAL", {})):
        folder = tmp_path / "xrays" / (f"site_{name[0]}" if attribute == "site" else "") / name
        for number in range(60):
            write_noise(folder / f"{number}.png", number, **options)
    site = ", site: folder" if attribute == "site" else ""
    (tmp_path / "space.yaml").write_text(
        f"name: any\ndata: {{path: xrays, image_size: 32, split: {{val_a: 0.2{site}}}}}\n"
        "parameters: {source: {value: none}}\n"
    )
    notes: list[str] = []

    prepare_space(load_space(tmp_path / "space.yaml"), tmp_path / "cache", note=notes.append)

    told = [note for note in notes if "a classifier can tell" in note]
    assert len(told) == bool(attribute)
    assert all(f"{attribute} (AUROC 1.00)" in note for note in told)
