"""What a search asks of its folder of extra images before any trial."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from xraytune.data.phantom import draw_phantoms
from xraytune.errors import DataError
from xraytune.pipeline.prepare import PIXELS_STAGE
from xraytune.search.run import search

pytestmark = pytest.mark.slow

SPACE = """\
version: 1
name: small
data: {path: xrays, image_size: 32, split: {val_a: 0.25, val_b: 0.25}}
parameters:
  source: {value: folder}
  synthetic_ratio: {value: 0.2}
  folder: {parameters: {path: {value: extra}}}
  backbone: {value: small_cnn}
  weights: {value: none}
budget: {trials: 1, max_epochs: 1, steps_per_epoch: 2}
scheduler: {name: none}
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A folder with X-rays and a space file, whose folder of extra images is still missing."""
    draw_phantoms(tmp_path / "xrays", patients=24, seed=1, image_size_px=32)
    (tmp_path / "small.yaml").write_text(SPACE, encoding="utf-8")
    return tmp_path


def test_the_sealed_test_folder_as_extra_images_is_refused_unopened_and_nothing_is_begun(lab: Path) -> None:
    with pytest.raises(
        DataError, match=r"patients of \d+ sealed test images are among these extra images: test/NORMAL"
    ):
        search(lab / "small.yaml", studies=lab / "studies", overrides=[f"folder.path={lab}/xrays/test"])

    assert not (lab / "studies" / "small").exists()
    assert len(list((lab / "cache" / PIXELS_STAGE).iterdir())) == 1, "the training images, and no others"


@pytest.mark.parametrize("by", ["patient", "file"])
def test_one_patient_of_the_sealed_test_folder_among_the_extra_images_is_refused(lab: Path, by: str) -> None:
    shutil.copytree(lab / "xrays" / "train", lab / "extra")
    known = next((lab / "xrays" / "test" / "PNEUMONIA").iterdir())
    stranger = next((lab / "extra" / "PNEUMONIA").iterdir())
    if by == "patient":
        stranger.rename(stranger.with_name(known.name))
    else:
        shutil.copy(known, stranger.with_name("drawn1.jpeg"))

    with pytest.raises(DataError, match=f"test images are among these extra images: .*{known.name}"):
        search(lab / "small.yaml", studies=lab / "studies")
