"""Small real image folders."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraytune.base.seeding import numpy_generator

WriteImages = Callable[[Path, Iterable[str]], None]

KERMANY = (
    *(f"NORMAL/IM-{patient:04d}-0001.jpeg" for patient in range(1, 5)),
    *(f"PNEUMONIA/person{patient}_bacteria_{patient}.jpeg" for patient in range(1, 5)),
    *(f"PNEUMONIA/person{patient}_virus_{patient}.jpeg" for patient in range(1, 5)),
)


def write_images(root: Path, files: Iterable[str]) -> None:
    """Write a small image of its own, drawn from the file's name, for each path below `root`."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int(hashlib.sha256(file.encode()).hexdigest()[:8], 16)
        pixels = numpy_generator(seed, "image").integers(0, 256, (12, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.fixture
def write() -> WriteImages:
    """`write(root, files)`: small images, each different, at these paths below `root`."""
    return write_images


@pytest.fixture
def kermany(tmp_path: Path) -> Path:
    """Class folders: four patients of NORMAL, four bacterial and four viral ones of PNEUMONIA."""
    root = tmp_path / "xrays"
    write_images(root, KERMANY)
    return root


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """The layout train/ val/ test/, with other patients in each."""
    root = tmp_path / "official"
    write_images(root / "train", KERMANY)
    write_images(root / "val", ["NORMAL/IM-0050-0001.jpeg", "PNEUMONIA/person50_virus_50.jpeg"])
    write_images(root / "test", ["NORMAL/IM-0090-0001.jpeg", "PNEUMONIA/person90_virus_90.jpeg"])
    return root
