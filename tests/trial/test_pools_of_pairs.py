"""Pools of images with masks, made by a GAN of pairs."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.in_process import CPU
from xraytune.base.artifacts import build_once, content_sha256
from xraytune.base.errors import TrialError
from xraytune.base.files import read_json
from xraytune.data.images import ImageFile, SideName
from xraytune.data.prepare import PIXELS_STAGE, ImageSource, Prepared, RunContext
from xraytune.model.generator_folder import fill_generator_folder, generator_sample
from xraytune.space.settings import Experiment, Parameters, Settings
from xraytune.synth.sources.gan import Gan, typical_masks
from xraytune.synth.sources.source import POOL_STAGE
from xraytune.synth.sources.which import block_reader
from xraytune.synth.synthesize import trained_generator
from xraytune.trial.training_set import build_training_set

pytestmark = pytest.mark.slow

SIZE_PX = 48
COUNT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Prepared images with masks, in a cache."""

    prepared: Prepared
    cache: Path

    @property
    def context(self) -> RunContext:
        return RunContext(prepared=self.prepared, cache=self.cache, compute=CPU)

    def experiment(self, **gan: Any) -> Experiment:
        settings = Settings.model_validate_json(
            f"""{{"name": "pairs", "task": "segmentation", "quality": {{"allow_memorised": true}},
                "data": {{"path": "{self.cache}", "image_size": 32}}}}"""
        )
        small = {
            "image_size": 32,
            "width": 8,
            "batch_size": 8,
            "z_dim": 8,
            "lr_g": 2e-3,
            "lr_d": 2e-3,
            "steps": 150,
        }
        network = {
            "backbone": "mobilenet_v2",
            "weights": "none",
            "input_channels": 1,
            "batch_size": 4,
        }
        given = {"source": "gan", "gan": {**small, **gan}, **network}
        return Experiment(settings=settings, parameters=Parameters.model_validate(given))

    def pool(self, experiment: Experiment, block: int = 0) -> ImageSource:
        return block_reader(experiment, self.context)(0, block)


def draw_pairs() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return noisy dark images with a bright disc of random place and size, and the discs."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX]
    places, radii = random.uniform(18, 30, (COUNT, 2, 1, 1)), random.uniform(12, 22, (COUNT, 1, 1))
    inside = np.hypot(rows - places[:, 0], columns - places[:, 1]) < radii
    pixels = np.where(inside, 200, 40) + random.integers(0, 20, inside.shape)
    return pixels.astype(np.uint8), np.where(inside, 255, 0).astype(np.uint8)


def store(planes: tuple[NDArray[np.uint8], NDArray[np.uint8]], folder: Path) -> None:
    for name, plane in zip(("pixels", "masks"), planes, strict=True):
        np.save(folder / f"{name}.npy", plane)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    cache = tmp_path_factory.mktemp("pairs")
    artifact = build_once(cache, PIXELS_STAGE, {"drawn": COUNT}, partial(store, draw_pairs()))
    shares: tuple[tuple[SideName, int], ...] = (("train", 28), ("val_a", 6), ("val_b", 6))
    sides = [side for side, count in shares for _ in range(count)]
    images = tuple(
        ImageFile(
            file=f"images/{row}.png",
            patient=f"{row}",
            label=0,
            side=side,
            row=row,
            sha256=f"{row:064x}",
        )
        for row, side in enumerate(sides)
    )
    prepared = Prepared(
        class_names=("image",),
        positive=0,
        image_size_px=SIZE_PX,
        resize="squash",
        pixels=artifact.relative_to(cache).as_posix(),
        pixels_sha256=content_sha256(artifact, "pixels.npy"),
        test_fingerprint=None,
        images=images,
        has_masks=True,
    )
    return Pairs(prepared=prepared, cache=cache)


def test_a_pool_holds_plausible_pairs_and_the_training_set_has_their_masks(pairs: Pairs) -> None:
    experiment = pairs.experiment()

    pool = pairs.pool(experiment)
    pixels, masks, inputs = pool.read(), pool.read_masks(), pool.inputs
    training_set = build_training_set(experiment, pairs.context)

    typical = typical_masks(Gan(experiment.parameters).settings, pairs.prepared, pairs.cache)
    assert typical is not None
    assert pixels.shape == masks.shape == (256, 32, 32)
    assert set(np.unique(masks)) == {0, 255}
    assert typical.includes(masks).all()
    assert inputs["stage"] == POOL_STAGE
    _, extra = training_set.sources
    assert np.array_equal(extra.read_masks(np.arange(5)), masks[:5])


def test_an_untrained_gan_is_refused_for_its_masks(pairs: Pairs) -> None:
    with pytest.raises(
        TrialError, match=r"first 256 masks are plausible, fewer than 25 %(.|\n)*gan\.steps"
    ):
        pairs.pool(pairs.experiment(steps=1, architecture="dcgan"))


def test_drawn_pairs_are_png_files_of_images_and_masks_and_those_of_a_search(
    pairs: Pairs, tmp_path: Path
) -> None:
    experiment = pairs.experiment()
    gan = Gan(experiment.parameters).settings
    network = trained_generator(gan, pairs.context)
    (tmp_path / "gan").mkdir()
    fill_generator_folder(tmp_path / "gan", network, experiment, pairs.context)

    drawn = generator_sample(tmp_path / "gan", count=300, out=tmp_path / "drawn")

    assert (drawn.counts, drawn.has_masks) == ({"image": 300}, True)
    names = [f"gan_{number:06d}.png" for number in range(1, 301)]
    blocks = [pairs.pool(experiment, block) for block in range(2)]
    drawn_before = {
        "images": [block.read() for block in blocks],
        "masks": [block.read_masks() for block in blocks],
    }
    for folder, planes in drawn_before.items():
        assert sorted(file.name for file in (tmp_path / "drawn" / folder).iterdir()) == names
        expected = np.concatenate(planes)[:300]
        read = np.stack(
            [np.asarray(Image.open(tmp_path / "drawn" / folder / name)) for name in names]
        )
        assert np.array_equal(read, expected)
    assert len(read_json(tmp_path / "drawn" / "provenance.json")["train_images"]) == 28
