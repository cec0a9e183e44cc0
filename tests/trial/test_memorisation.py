"""The memorisation gate: a GAN that copies training images is refused with the reason, others pass."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.trial.conftest import Bench
from tests.trial.test_trial import gan
from xraytune.base.artifacts import build_once
from xraytune.base.errors import TrialError
from xraytune.base.files import read_json
from xraytune.data.prepare import Prepared, training_pixels
from xraytune.space.settings import Experiment, GanSettings, Settings, without_gate
from xraytune.synth.memorisation import MEMORISATION_STAGE, Memorisation, measure_memorisation
from xraytune.synth.pool import resize_planes
from xraytune.synth.sources.source import POOL_STAGE
from xraytune.synth.synthesize import trained_generator
from xraytune.trial.training_set import TrainingSet, build_training_set

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """A bench with trained GANs, and one whose images are copies of training images."""

    bench: Bench
    copier: GanSettings

    def training_set(self, settings: GanSettings, study: Settings | None = None) -> TrainingSet:
        experiment = self.experiment(settings).model_copy(
            update={"settings": study or self.bench.settings}
        )
        return build_training_set(experiment, self.bench.context)

    def experiment(self, settings: GanSettings) -> Experiment:
        return self.bench.experiment(source="gan", gan=settings, synthetic_ratio=0.5)

    def measure(
        self, settings: GanSettings, prepared: Prepared | None = None
    ) -> tuple[dict[str, Memorisation], Path]:
        context = replace(self.bench.context, prepared=prepared or self.bench.prepared)
        return measure_memorisation(self.experiment(settings), context)


def save_pool(pixels: NDArray[np.uint8], folder: Path) -> None:
    np.save(folder / "pixels.npy", pixels)


@pytest.fixture(scope="module")
def studio(bench: Bench) -> Studio:
    """The images of seed 77 are replaced by real training images."""
    honest = Studio(bench=bench, copier=gan(seed=77))
    network = trained_generator(honest.copier, bench.context)
    train = bench.prepared.side("train")
    for label in (0, 1):
        copied = np.resize(train.rows[train.labels == label], 256)
        stored = training_pixels(bench.prepared, bench.cache)[copied]
        pixels = resize_planes(stored[:, None], 32)[:, 0]
        inputs = {"generator": network.name, "label": label, "block": 0, "seed": 77}
        build_once(bench.cache, POOL_STAGE, inputs, partial(save_pool, pixels))
    return honest


def test_memorising_gan_fails_trial_with_fix(studio: Studio) -> None:
    with pytest.raises(TrialError) as refusal:
        studio.training_set(studio.copier)

    (problem,) = refusal.value.problems
    assert "256 of 256 images of NORMAL (chance of that" in problem.what
    assert "256 of 256 images of PNEUMONIA" in problem.what
    assert problem.where == "gan r=0.5 (4 steps)"
    assert "quality.allow_memorised: true" in problem.fix
    assert str(studio.bench.cache) not in str(refusal.value), (
        "nothing that is stored holds an absolute path"
    )


def test_allow_memorised_skips_the_check(studio: Studio) -> None:
    verdicts = studio.bench.cache / MEMORISATION_STAGE
    before = sorted(verdicts.glob("*/manifest.json"))

    training_set = studio.training_set(studio.copier, without_gate(studio.bench.settings))

    assert len(training_set.extra) > 0
    assert sorted(verdicts.glob("*/manifest.json")) == before


def test_each_split_has_its_own_verdict_with_pictures_of_nearest_pairs(studio: Studio) -> None:
    """The comparison depends on the patient and the side of each image."""
    prepared = studio.bench.prepared
    renamed = [replace(image, patient=f"{image.side} {image.patient}") for image in prepared.images]

    verdicts, folder = studio.measure(studio.copier)

    assert folder != studio.measure(studio.copier, replace(prepared, images=tuple(renamed)))[1]
    assert {name: one.near for name, one in verdicts.items()} == {"NORMAL": 256, "PNEUMONIA": 256}
    assert read_json(folder / "memorisation.json")["NORMAL"]["near"] == 256
    sheet = np.asarray(Image.open(folder / "nearest_NORMAL.png"))
    drawn, nearest = sheet[2:34, 2:34], sheet[2:34, 36:68]
    assert np.array_equal(drawn, nearest), "a copy stands beside what it is a copy of"
