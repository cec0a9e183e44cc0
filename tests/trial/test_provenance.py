"""Whether a study may train on a GAN's images, given the GAN's training images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trial.conftest import Bench
from xraytune.base.errors import DataError
from xraytune.base.files import write_json
from xraytune.data.index import ImageFile
from xraytune.data.prepare import Prepared, prepare
from xraytune.space.settings import Settings
from xraytune.synth.extra_folder import PROVENANCE_FILE, require_unseen

pytestmark = pytest.mark.slow


def resplit(bench: Bench, **changes: Any) -> Prepared:
    """The same X-rays with another `data.split`."""
    data = bench.settings.data
    split = data.split.model_copy(update=changes)
    settings = Settings(name="other", data=data.model_copy(update={"split": split}))
    return prepare(settings, bench.cache)[0]


def folder_of(gan: Prepared, root: Path) -> Path:
    """A folder like those of `generator sample`, from a GAN that was trained on the train side of `gan`."""
    root.mkdir()
    learnt = [image.sha256 for image in gan.images if image.side == "train"]
    write_json(root / PROVENANCE_FILE, {"train_images": learnt})
    return root


def test_images_of_gan_trained_on_validation_images_are_refused(bench: Bench, tmp_path: Path) -> None:
    root = folder_of(resplit(bench, seed=1), tmp_path / "drawn")

    with pytest.raises(
        DataError, match=r"was trained on \d+ of the \d+ images that the study holds out\n.*data\.split"
    ):
        require_unseen(root, bench.prepared)


def test_images_of_gan_trained_on_test_images_are_refused(bench: Bench, tmp_path: Path) -> None:
    other = resplit(bench, val_a=0.3)
    root = folder_of(other, tmp_path / "drawn")
    sha256 = next(image.sha256 for image in other.images if image.side == "train")
    test = ImageFile(file="test/NORMAL/a.png", label=0, patient="a", sha256=sha256, width_px=1, height_px=1)
    study = replace(bench.prepared, images=tuple(i for i in bench.prepared.images if i.side == "train")[1:])

    require_unseen(root, study)
    with pytest.raises(DataError, match="was trained on 1 of the 1 images that the study holds out"):
        require_unseen(root, study, [test])


def test_gan_trained_on_other_images_is_accepted(bench: Bench, tmp_path: Path) -> None:
    train = tuple(image for image in bench.prepared.images if image.side == "train")
    others = tuple(replace(image, sha256=f"other {image.sha256}") for image in train)

    require_unseen(folder_of(bench.prepared, tmp_path / "same"), bench.prepared)
    require_unseen(folder_of(replace(bench.prepared, images=train[:3]), tmp_path / "some"), bench.prepared)
    require_unseen(folder_of(replace(bench.prepared, images=others), tmp_path / "others"), bench.prepared)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "\xff", "[]", "{}", '{"version": 1}'])
def test_a_damaged_record_is_refused_and_an_unrelated_one_ignored(bench: Bench, tmp_path: Path, content: str) -> None:
    (tmp_path / PROVENANCE_FILE).write_bytes(content.encode("latin-1"))

    if content.endswith(("]", "}")):
        require_unseen(tmp_path, bench.prepared)
    else:
        with pytest.raises(DataError, match=r"provenance\.json: .* cannot be read"):
            require_unseen(tmp_path, bench.prepared)
