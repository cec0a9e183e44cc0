"""Phantom X-rays are reproducible, have correct masks, and no trivial statistic tells them."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from tests.in_process import command
from xraytune.base.arrays import Float64Array
from xraytune.base.errors import ConfigError
from xraytune.data.columns import subgroup_columns
from xraytune.data.file_names import patient_of
from xraytune.data.index import read_index
from xraytune.data.phantom import PhantomSet, paint_phantoms
from xraytune.space.data_settings import DataSettings

pytestmark = pytest.mark.slow

_SIDE = 64


@pytest.fixture(scope="module")
def phantoms(module_path: Path) -> PhantomSet:
    """Twenty-five patients: each diagnosis is on both sides of the split."""
    out = module_path / "set"
    return paint_phantoms(out, patients=25, seed=7, image_size_px=_SIDE)


def _images(root: Path) -> list[Path]:
    return sorted(root.glob("*/*/*.jpeg"))


def _pixels(image: Path) -> Float64Array:
    return np.asarray(Image.open(image), dtype=np.float64)


def test_a_larger_set_contains_the_smaller_and_another_seed_gives_other_patients(
    phantoms: PhantomSet, tmp_path: Path
) -> None:
    """The smallest has both classes in both parts."""
    for name, seed in (("small", 7), ("other", 4)):
        paint_phantoms(tmp_path / name, patients=10, seed=seed, image_size_px=_SIDE)

    small = _images(tmp_path / "small")
    for image in small:
        same = phantoms.path / image.relative_to(tmp_path / "small")
        assert same.read_bytes() == image.read_bytes()
    assert {image.parts[-3:-1] for image in small} == {
        (part, name) for part in ("train", "test") for name in ("NORMAL", "PNEUMONIA")
    }
    name = "train/NORMAL/IM-0004-0001.jpeg"
    assert np.abs(_pixels(tmp_path / "other" / name) - _pixels(phantoms.path / name)).mean() > 5


def test_the_disease_can_be_learnt_from_the_pixels_but_not_from_trivial_statistics(
    tmp_path: Path,
) -> None:
    """By a logistic regression, of which no patient is on both sides of a fold."""
    paint_phantoms(tmp_path / "set", patients=200, seed=11, image_size_px=32)
    images = _images(tmp_path / "set")
    labels = np.array([image.parts[-2] == "PNEUMONIA" for image in images])
    patients = [patient_of(image.name) for image in images]

    def separability(features: Float64Array) -> float:
        components = PCA(n_components=min(40, features.shape[1]), whiten=True, random_state=0)
        model = make_pipeline(components, LogisticRegression(C=0.1))
        folds = {"groups": patients, "cv": GroupKFold(5), "method": "decision_function"}
        return float(roc_auc_score(labels, cross_val_predict(model, features, labels, **folds)))

    pixels = np.array([_pixels(image)[::2, ::2].ravel() for image in images])
    assert separability(np.stack([pixels.mean(axis=1), pixels.std(axis=1)], axis=1)) < 0.65
    assert separability(pixels) > 0.70


def test_pairs_are_the_same_images_with_masks_of_the_lungs_which_are_darker_than_bone(
    phantoms: PhantomSet, tmp_path: Path
) -> None:
    pairs = paint_phantoms(tmp_path / "pairs", patients=25, seed=7, image_size_px=_SIDE, pairs=True)

    assert pairs.image_count == phantoms.image_count
    for file in _images(phantoms.path):
        part = pairs.path / file.parts[-3]
        pixels = _pixels(file)
        lungs = np.asarray(Image.open(part / "masks" / f"{file.stem}.png"))
        spine = pixels[_SIDE // 3 :, _SIDE * 7 // 16 : _SIDE * 9 // 16]
        assert (part / "images" / file.name).read_bytes() == file.read_bytes()
        assert pixels.shape == lungs.shape == (_SIDE, _SIDE)
        assert 0.12 < lungs.mean() < 0.5
        assert pixels[lungs].mean() < spine.mean() - 20


def test_phantoms_of_sites_have_their_scanner_and_people_to_group_by(tmp_path: Path) -> None:
    paint_phantoms(tmp_path / "plain", patients=30, seed=2, image_size_px=32)
    for name in ("sites", "again"):
        options = "--sites 3 --patients 30 --seed 2 --size 32".split()
        assert command("data", "phantom", tmp_path / name, *options).exit_code == 0

    index = read_index(DataSettings(path=tmp_path / "sites", classes="auto"))

    assert index.class_names == ("NORMAL", "PNEUMONIA")
    assert index.images.sites == ("hospital_a", "hospital_b", "hospital_c")
    for image in index.images:
        again = tmp_path / "again" / image.file
        assert (tmp_path / "sites" / image.file).read_bytes() == again.read_bytes()
    patients = {(image.site, image.label, image.patient) for image in index.images}
    each = Counter(patient[:2] for patient in patients)
    assert each == {(site, label): 4 + 2 * label for site in index.images.sites for label in (0, 1)}
    columns = subgroup_columns(index.images, ["sex", "age"], index.root)
    assert {*columns["sex"].values()} == {"female", "male"}
    assert {*columns["age"].values()} == {*"12345"}
    plain = {path.name: path for path in _images(tmp_path / "plain")}
    is_same = set()
    spreads = defaultdict[str, list[float]](list)
    for image in index.images:
        file = index.root / image.file
        is_same.add((image.site, file.read_bytes() == plain[file.name].read_bytes()))
        spreads[image.site].append(float(_pixels(file).std()))
    assert is_same == {("hospital_a", True), ("hospital_b", False), ("hospital_c", False)}
    low, _, high = sorted(map(np.mean, spreads.values()))
    assert high > 1.1 * low
    with pytest.raises(ConfigError, match=r"--sites: .* in class"):
        paint_phantoms(tmp_path / "masks", patients=10, seed=0, pairs=True, sites=2)
