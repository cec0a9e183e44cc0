"""Pools of images with masks, made by a GAN of pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pair_files import write_discs
from tests.trial.conftest import Bench, bench_of, block_of
from xraytune.base.errors import TrialError
from xraytune.base.files import read_json
from xraytune.model.generator_folder import fill_generator_folder, generator_sample
from xraytune.space.settings import Experiment
from xraytune.synth.sources.gan import Gan, trained_generator, typical_masks
from xraytune.trial.training_set import build_training_set


@pytest.fixture(scope="module")
def pairs(module_path: Path) -> Bench:
    """The discs of `write_discs`."""
    write_discs(module_path / "xrays", seed=0)
    return bench_of(module_path, 0.15, task="segmentation").ungated


def with_gan(pairs: Bench, **changes: Any) -> Experiment:
    gan: dict[str, Any] = {"image_size": 32, "width": 8, "batch_size": 8, "z_dim": 8, "steps": 150}
    gan |= {"lr_g": 2e-3, "lr_d": 2e-3}
    return pairs.experiment(source="gan", gan=gan | changes)


def test_a_pool_holds_plausible_pairs_and_the_training_set_has_their_masks(pairs: Bench) -> None:
    experiment = with_gan(pairs)

    pool = block_of(experiment, pairs.context)
    pixels = pool.read()
    masks = pool.read_masks()
    training_set = build_training_set(experiment, pairs.context)

    typical = typical_masks(Gan(experiment.parameters).settings, pairs.prepared, pairs.cache)
    assert typical is not None
    assert pixels.shape == masks.shape == (256, 32, 32)
    assert set(np.unique(masks)) == {0, 255}
    assert typical.includes(masks).all()
    _, extra = training_set.image_sets
    assert np.array_equal(extra.read_masks(np.arange(5)), masks[:5])


def test_an_untrained_gan_is_refused_for_its_masks(pairs: Bench) -> None:
    with pytest.raises(TrialError, match=r"masks are plausible, fewer than 25 %(.|\n)*gan\.steps"):
        block_of(with_gan(pairs, steps=1, architecture="dcgan"), pairs.context)


def test_drawn_pairs_are_png_files_of_images_and_masks_and_those_of_a_search(
    pairs: Bench, tmp_path: Path
) -> None:
    experiment = with_gan(pairs)
    network = trained_generator(Gan(experiment.parameters).settings, pairs.context)
    (tmp_path / "gan").mkdir()
    fill_generator_folder(tmp_path / "gan", network, experiment, pairs.context)

    drawn = generator_sample(tmp_path / "gan", count=300, out=tmp_path / "drawn")

    assert (drawn.counts, drawn.task) == ({"image": 300}, "segmentation")
    blocks = [
        block_of(experiment, pairs.context, 0, block).read_channels(np.arange(256))
        for block in range(2)
    ]
    for number, folder in enumerate(("images", "masks")):
        files = sorted((tmp_path / "drawn" / folder).iterdir())
        assert files[-1].name == "gan_000300.png"
        read = np.stack([np.asarray(Image.open(file)) for file in files])
        assert np.array_equal(read, np.concatenate(blocks)[:300, number])
    assert len(read_json(tmp_path / "drawn/provenance.json")["train_images"]) == 28
