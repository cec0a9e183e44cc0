"""How many patients a search leaves unused, so that a confirmation has somebody to score."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.study.studies import two_images
from xraytune.confirm.arms import UNUSED_KINDS
from xraytune.confirm.sealed import choose_test
from xraytune.data.draws import (
    DrawDesign,
    Population,
    choose_draws,
    patients_needed,
    population_of,
    too_few_outside,
)
from xraytune.data.images import ImageFile, ImageIndex, ImageTable
from xraytune.data.prepare import SplitData
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import DataSettings, SplitSettings
from xraytune.space.search_settings import Confirm
from xraytune.space.settings import Settings

SIZES = (10, 25, 50, 100)
SPLIT = SplitSettings(val_a=0.2, val_b=0.2)


def images_of(*patients: int) -> ImageTable:
    """Images of this many patients of each class, one of each patient."""
    labels = np.repeat(range(len(patients)), patients).tolist()
    return ImageTable(
        ImageFile(file=f"{number}.png", patient=f"{number}", label=label, sha256=f"{number:064x}")
        for number, label in enumerate(labels)
    )


def population(*patients: int) -> Population:
    found = population_of(images_of(*patients), positive=1)
    assert found
    return found


def split_of(images: ImageTable, train_patients: int) -> SplitData:
    """What a search records of images that it splits."""
    sides = split_by_patient(images, SPLIT, train_patients)
    sided = [replace(image, side=side) for image, side in zip(images, sides, strict=True)]
    return replace(
        two_images(),
        class_names=tuple(f"class {label}" for label in np.unique(images.labels)),
        images=tuple(image for image in sided if image.side != "unused"),
        unused=tuple(image for image in sided if image.side == "unused"),
    )


@pytest.mark.parametrize(
    "patients",
    [(60, 60), (150, 150), (110, 40), (350, 350), (760, 40), (70, 70, 70), (1900, 100), (123,)],
)
def test_a_confirmation_has_patients_to_draw_and_to_score(patients: tuple[int, ...]) -> None:
    images = images_of(*patients)
    trainable = split_by_patient(images, SPLIT).count("train")
    draws = choose_draws(population(*patients), trainable, SIZES, 0.9)
    assert draws

    settings = Settings(
        name="any",
        data=DataSettings(path=Path("xrays"), split=SPLIT, train_patients=draws.train_patients),
        confirm=Confirm(replicates=draws.precision.replicates),
    )
    prepared = split_of(images, draws.train_patients)
    index = ImageIndex(root=settings.data.path, class_names=prepared.class_names, all_images=images)
    sealed = choose_test(settings, prepared, replicates=draws.precision.replicates, index=index)

    assert sealed.kind in UNUSED_KINDS
    assert len({*sealed.images.patients}) == draws.precision.patients


def test_draws_share_at_most_two_fifths_of_their_patients() -> None:
    """Where draws of 150 of 300 overlap, too few simulated intervals cover (decision 56)."""
    assert too_few_outside(300, 120, fewest_tested=10) is None
    problem = too_few_outside(300, 121, fewest_tested=10)
    assert problem

    found = re.search(r"train_patients=(\d+)", problem.fix)
    assert found
    proposed = int(found[1])
    left = 300 + 121
    assert too_few_outside(left - proposed, proposed, fewest_tested=10) is None
    assert too_few_outside(left - proposed - 1, proposed + 1, fewest_tested=10)


@pytest.mark.parametrize("patients", [(100, 100), (95, 5), (100, 60, 40), (200,)])
def test_the_fewest_patients_of_a_verdict_are_known(patients: tuple[int, ...]) -> None:
    known = population(*patients)
    needed = patients_needed(known, SIZES)

    assert choose_draws(known, needed, SIZES, 0.9)
    assert choose_draws(known, needed - 1, SIZES, 0.9) is None


def test_more_patients_are_trained_on_where_the_interval_allows_it() -> None:
    """Training patients are not scored, and the lower an AUROC, the wider its interval."""
    known = population(500, 500)

    def choose(patients: int, auroc: float, enough: float = 0.0) -> DrawDesign:
        draws = choose_draws(known, patients, SIZES, auroc, enough=enough)
        assert draws
        return draws

    few = choose(300, 0.9)
    many = choose(1500, 0.9)
    hard = choose(1500, 0.7)
    easy = choose(1500, 0.98, enough=0.01)

    assert few.train_patients <= many.train_patients
    assert few.precision.half_width > many.precision.half_width
    assert hard.precision.half_width > many.precision.half_width > easy.precision.half_width
    assert easy.train_patients == SIZES[-1]
    assert choose_draws(known, 1500, SIZES, 0.9, fewest_tested=1495) is None


def test_findings_that_are_never_scored_make_no_verdict() -> None:
    images = (
        ImageFile(file=f"{number}", patient=f"{number}", label=0, findings="10"[number > 3])
        for number in range(100)
    )

    assert population_of(ImageTable(images), positive=0) is None
