"""The figures of a data folder: the chosen patients and the counts."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pair_files import save, write_pairs
from xraytune.base.drawing import SampleRow
from xraytune.base.errors import ConfigError
from xraytune.base.seeding import numpy_generator
from xraytune.data.figures import count_panels, draw_data_figures, pair_rows, sample_rows
from xraytune.data.index import ImageIndex, read_index
from xraytune.space.settings import DataSettings


def write(root: Path, files: Iterable[str]) -> None:
    """Write a distinct image for each path below `root`; its grey is the patient's number."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        patient = int("".join(character for character in path.stem.split("_")[0] if character.isdigit()))
        grey = np.full((40, 40), patient, dtype=np.uint8)
        grey[0, 0] = numpy_generator(len(file), file).integers(256)
        Image.fromarray(grey).save(path)


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    """20 patients of PNEUMONIA with 3 images each, 4 of NORMAL with one, and a test part."""
    root = tmp_path / "xrays"
    write(root / "train" / "PNEUMONIA", [f"person{p}_virus_{p}_{k}.png" for p in range(1, 21) for k in range(3)])
    write(root / "train" / "NORMAL", [f"p{p}.png" for p in range(101, 105)])
    write(root / "test" / "PNEUMONIA", ["person50_virus_1.png", "person50_virus_2.png"])
    write(root / "test" / "NORMAL", ["p150.png"])
    return read_index(DataSettings(path=root))


def patients_of(row: SampleRow) -> list[int]:
    return [int(np.median(image)) for image in row.images]


@pytest.mark.slow
def test_a_row_shows_each_patient_once_and_no_test_image(index: ImageIndex) -> None:
    normal, pneumonia = sample_rows(index, seed=0)

    assert sorted(patients_of(normal)) == [101, 102, 103, 104]
    assert len(set(patients_of(pneumonia))) == len(pneumonia.images) == 8
    assert set(patients_of(pneumonia)) <= set(range(1, 21))
    assert (normal.note, pneumonia.note) == ("4 images", "60 images")
    again, other = (patients_of(sample_rows(index, seed)[1]) for seed in (0, 1))
    assert again == patients_of(pneumonia)
    assert set(again) != set(other)


@pytest.mark.slow
def test_broken_image_is_replaced_by_next_patient(index: ImageIndex) -> None:
    for patient in range(1, 13):
        for file in (index.root / "train" / "PNEUMONIA").glob(f"person{patient}_*"):
            file.write_bytes(file.read_bytes()[:60])

    assert sorted(patients_of(sample_rows(index, seed=0)[1])) == list(range(13, 21))


def test_images_and_patients_of_both_parts_are_counted_but_not_drawn_among_them(index: ImageIndex) -> None:
    """The next inspection would take figures there for X-rays."""
    assert count_panels(index) == {
        "images": {"training": (4, 60), "test": (1, 2)},
        "patients": {"training": (4, 20), "test": (1, 1)},
    }
    with pytest.raises(ConfigError, match="would be mistaken for X-rays"):
        draw_data_figures(index, index.root / "train" / "NORMAL")


@pytest.mark.slow
def test_pairs_are_drawn_with_the_outline_of_their_mask(tmp_path: Path) -> None:
    index = read_index(
        DataSettings(path=write_pairs(tmp_path / "pairs", [f"p{number}" for number in range(10)])), pairs=True
    )
    save(tmp_path / "pairs" / "masks" / "p3.png", np.zeros((32, 48), dtype=np.uint8))

    drawn = draw_data_figures(index, tmp_path / "figures")
    xrays, masks = pair_rows(index, seed=0)

    assert [file.name for file in drawn] == ["samples.png", "samples.svg"]
    assert xrays.images.shape == (8, 224, 224)
    assert masks.images.shape == (8, 224, 224, 3)
    coloured = (masks.images != xrays.images[..., None]).any(axis=-1)
    assert 0 < coloured.mean() < 0.2
