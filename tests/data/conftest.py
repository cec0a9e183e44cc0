"""Small real image folders."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest

from tests.pair_files import save
from xraytune.base.errors import DataError, XraytuneError
from xraytune.base.seeding import numpy_generator
from xraytune.data.images import ImageIndex
from xraytune.data.index import read_index
from xraytune.data.prepare import SplitData, prepare
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.settings import Settings


class DataFolder(PosixPath):
    """A path to a data folder that a test fills and reads."""

    def images(self, files: str | Iterable[str]) -> None:
        """Write a small image of its own, drawn from the file's name, for each path below it."""
        for file in paths(files) if isinstance(files, str) else files:
            seed = int(hashlib.sha256(file.encode()).hexdigest()[:8], 16)
            save(self / file, numpy_generator(seed, "image").integers(0, 256, (12, 16), np.uint8))

    def write(self, file: str, content: bytes) -> None:
        """Write a file, and the folders above it."""
        (self / file).parent.mkdir(parents=True, exist_ok=True)
        (self / file).write_bytes(content)

    def table(self, *lines: str, name: str = "patients.csv") -> None:
        """Write a table, or another text."""
        self.mkdir(exist_ok=True)
        (self / name).write_text("\n".join(lines) + "\n", "utf-8")

    def settings(self, **data: Any) -> DataSettings:
        """`data` may be of simple types."""
        return DataSettings.model_validate({"path": self, **data})

    def index(self, *, pairs: bool = False, **data: Any) -> ImageIndex:
        """Read the folder with these settings."""
        return read_index(self.settings(**data), pairs=pairs)

    def refusal(
        self, kind: type[XraytuneError] = DataError, *, pairs: bool = False, **data: Any
    ) -> str:
        """Return why its images cannot be read or split."""
        with pytest.raises(kind) as refused:
            split_by_patient(self.index(pairs=pairs, **data).images, SplitSettings())
        return str(refused.value)

    def prepared(self, **data: Any) -> tuple[SplitData, tuple[str, ...]]:
        """Split and decode it for a study, with `cache` beside it; also return the notes."""
        content = self.settings(image_size=32, **data)
        task = "findings" if content.findings else "classification"
        settings = Settings.model_validate({"name": "any", "task": task, "data": content})
        return prepare(settings, self.parent / "cache")


def paths(pattern: str) -> list[str]:
    """The paths of patterns such as `train/{NORMAL,PNEUMONIA}/{1,2}.png`, separated by spaces."""
    words = pattern.split()
    if len(words) != 1:
        return [path for word in words for path in paths(word)]
    before, brace, rest = words[0].partition("{")
    if not brace:
        return words
    choices, _, after = rest.partition("}")
    return [path for choice in choices.split(",") for path in paths(f"{before}{choice}{after}")]


def labels_of(index: ImageIndex) -> dict[int, int]:
    """The number of images of each class."""
    return Counter(image.label for image in index.images)


@pytest.fixture
def xrays(tmp_path: Path) -> DataFolder:
    """A folder that is not there yet."""
    return DataFolder(tmp_path / "xrays")


@pytest.fixture
def kermany(xrays: DataFolder) -> DataFolder:
    """Class folders: four patients of NORMAL, four bacterial and four viral ones of PNEUMONIA."""
    xrays.images(_KERMANY)
    return xrays


@pytest.fixture
def official(tmp_path: Path) -> DataFolder:
    """The layout train/ val/ test/, with other patients in each."""
    root = DataFolder(tmp_path / "official")
    (root / "train").images(_KERMANY)
    (root / "val").images("NORMAL/IM-0050-0001.jpeg PNEUMONIA/person50_virus_50.jpeg")
    (root / "test").images("NORMAL/IM-0090-0001.jpeg PNEUMONIA/person90_virus_90.jpeg")
    return root


_KERMANY = (
    "NORMAL/IM-{0001,0002,0003,0004}-0001.jpeg "
    "PNEUMONIA/person{1_bacteria_1,2_bacteria_2,3_bacteria_3,4_bacteria_4}.jpeg "
    "PNEUMONIA/person{1_virus_1,2_virus_2,3_virus_3,4_virus_4}.jpeg"
)
