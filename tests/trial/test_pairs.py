"""Pairs in a study: masks are decoded with their images, and stay with them."""

from pathlib import Path

import numpy as np
import pytest

from tests.pair_files import write_pairs
from tests.trial.conftest import batch_of, prepared_bench
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import prepare, read_prepared, side_image_set, write_prepared
from xraytune.space.settings import Settings
from xraytune.trial.training import TrialTraining

STEMS = tuple(f"p{number}" for number in range(20))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", STEMS)


@pytest.fixture
def settings(root: Path) -> Settings:
    return Settings.model_validate_json(
        f"""{{"name": "pairs", "task": "segmentation",
            "data": {{"path": "{root}", "image_size": 32, "resize": "crop",
                "split": {{"val_a": 0.2, "val_b": 0.2}}}}}}"""
    )


def agreement(source: ImageSet) -> float:
    """Return the share of pixels that are bright where the mask is, and dark elsewhere."""
    everything = slice(None)
    return float(np.mean((source.read(everything) >= 128) == (source.read_masks(everything) > 0)))


def test_each_side_has_the_masks_of_its_images(settings: Settings, tmp_path: Path) -> None:
    prepared, _ = prepare(settings, tmp_path)

    assert prepared.has_masks
    for side in ("train", "val_a", "val_b"):
        source = side_image_set(side, prepared, tmp_path)
        assert set(np.unique(source.read_masks(slice(None)))) == {0, 255}
        assert agreement(source) > 0.95
    write_prepared(prepared, tmp_path / "split.json")
    assert read_prepared(tmp_path / "split.json") == prepared


def test_a_mask_moves_with_its_image(settings: Settings, tmp_path: Path) -> None:
    bench = prepared_bench(settings, tmp_path)
    experiment = bench.experiment(backbone="resnet18", augmentation="affine", batch_size=16)
    inputs = TrialTraining(experiment, bench.context)

    images, masks = batch_of(inputs.batches, 0)

    input_format = inputs.network.input_format
    grey = images[:, :1] * input_format.std[0] + input_format.mean[0]
    assert float(((grey >= 0.5) == (masks > 0.5)).float().mean()) > 0.9
    assert ((masks == 0) | (masks == 1)).all()
