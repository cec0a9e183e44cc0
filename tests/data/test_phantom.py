"""Phantom X-rays are reproducible, have correct masks, and cannot be classified by a trivial statistic."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from xraytune.base.errors import ConfigError
from xraytune.data.phantom import PhantomSet, draw_phantoms

pytestmark = pytest.mark.slow

_SIDE = 64


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> PhantomSet:
    """Twenty-five patients: each diagnosis is on both sides of the split."""
    return draw_phantoms(
        tmp_path_factory.mktemp("phantoms") / "set", patients=25, seed=7, image_size_px=_SIDE
    )


@pytest.fixture(scope="module")
def many_patients(tmp_path_factory: pytest.TempPathFactory) -> PhantomSet:
    """Enough to measure how well features separate the classes."""
    return draw_phantoms(
        tmp_path_factory.mktemp("phantoms") / "set", patients=200, seed=11, image_size_px=32
    )


def _images(root: Path) -> list[Path]:
    return sorted(root.glob("*/*/*.jpeg"))


def _patient(image: Path) -> str:
    """Series and number in a Kermany file name."""
    match = re.fullmatch(
        r"(?:(NORMAL2-IM|IM)-(\d{4})-0001(?:-\d{4})?|person(\d+)_(bacteria|virus)_\d+)\.jpeg",
        image.name,
    )
    assert match, f"{image.name} is not a Kermany name"
    return "-".join(part for part in match.groups() if part)


def _pixels(image: Path) -> NDArray[np.float64]:
    return np.asarray(Image.open(image), dtype=np.float64)


def _contents(root: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }


def test_the_same_arguments_give_the_same_bytes_and_another_seed_other_patients(
    tmp_path: Path,
) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        draw_phantoms(tmp_path / name, patients=10, seed=seed, image_size_px=_SIDE)

    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")
    name = "train/NORMAL/IM-0004-0001.jpeg"
    assert np.abs(_pixels(tmp_path / "one" / name) - _pixels(tmp_path / "other" / name)).mean() > 5


def test_a_larger_set_contains_the_smaller(phantoms: PhantomSet, tmp_path: Path) -> None:
    """The smallest has both classes in both parts."""
    draw_phantoms(tmp_path / "small", patients=10, seed=7, image_size_px=_SIDE)

    small, large = _contents(tmp_path / "small"), _contents(phantoms.path)
    del small["phantom.json"]
    assert small.items() <= large.items()
    assert {image.parts[-3:-1] for image in _images(tmp_path / "small")} == {
        (part, name) for part in ("train", "test") for name in ("NORMAL", "PNEUMONIA")
    }


def test_the_folder_records_how_it_was_made_and_its_counts_are_told(phantoms: PhantomSet) -> None:
    settings = json.loads((phantoms.path / "phantom.json").read_text(encoding="utf-8"))
    images = _images(phantoms.path)
    parts = {
        part: {_patient(image) for image in images if image.parts[-3] == part}
        for part in ("train", "test")
    }

    assert settings == {
        "version": 2,
        "seed": 7,
        "patients": 25,
        "image_size_px": _SIDE,
        "difficulty": 0.3,
    }
    assert phantoms.image_count == len(images)
    assert phantoms.patient_count == len(parts["train"] | parts["test"]) == 25
    assert (len(parts["test"]), parts["train"] & parts["test"]) == (5, set())


def test_the_disease_can_be_learnt_from_the_pixels_but_not_from_trivial_statistics(
    many_patients: PhantomSet,
) -> None:
    images = _images(many_patients.path)
    statistics = np.array([[_pixels(image).mean(), _pixels(image).std()] for image in images])
    pixels = np.array([_pixels(image)[::2, ::2].ravel() for image in images])

    assert _patientwise_auroc(statistics, images) < 0.65
    assert _patientwise_auroc(pixels, images) > 0.70


def _patientwise_auroc(features: NDArray[np.float64], images: list[Path]) -> float:
    """Cross-validated AUROC of a logistic regression; no patient is on both sides of a fold."""
    labels = np.array([image.parts[-2] == "PNEUMONIA" for image in images])
    patients = [_patient(image) for image in images]
    components = PCA(n_components=min(40, features.shape[1]), whiten=True, random_state=0)
    model = make_pipeline(components, LogisticRegression(C=0.1))
    scores = cross_val_predict(
        model, features, labels, groups=patients, cv=GroupKFold(5), method="decision_function"
    )
    return float(roc_auc_score(labels, scores))


def test_an_existing_folder_is_refused_and_unchanged_and_a_wrong_argument_is_named(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.txt").write_text("precious", encoding="utf-8")

    with pytest.raises(ConfigError, match="this path already exists"):
        draw_phantoms(tmp_path, patients=10, seed=0)
    with pytest.raises(ConfigError, match=r"image size out of bounds: 8\n  fix: give 32 to 1024"):
        draw_phantoms(tmp_path / "set", patients=10, seed=0, image_size_px=8)

    assert _contents(tmp_path) == {"mine.txt": b"precious"}
    assert not (tmp_path / "set").exists()


def test_pairs_are_the_same_images_with_masks_of_the_lungs_which_are_darker_than_bone(
    phantoms: PhantomSet, tmp_path: Path
) -> None:
    pairs = draw_phantoms(tmp_path / "pairs", patients=25, seed=7, image_size_px=_SIDE, pairs=True)

    assert pairs.image_count == phantoms.image_count
    for file in _images(phantoms.path):
        part, pixels = pairs.path / file.parts[-3], _pixels(file)
        lungs = np.asarray(Image.open(part / "masks" / f"{file.stem}.png"))
        assert (part / "images" / file.name).read_bytes() == file.read_bytes()
        assert pixels.shape == lungs.shape == (_SIDE, _SIDE)
        assert 0.12 < lungs.mean() < 0.5
        assert (
            pixels[lungs].mean()
            < pixels[_SIDE // 3 :, _SIDE * 7 // 16 : _SIDE * 9 // 16].mean() - 20
        )
