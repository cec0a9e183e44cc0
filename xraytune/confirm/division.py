"""Nested samples of patients: who is trained on, who lends extra images, and who is scored.

Networks are trained on the first n patients of each of several disjoint samples, for several n. All
networks are scored on the same patients, who are in no sample.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from xraytune.base.errors import DataError
from xraytune.base.records import frozen
from xraytune.confirm.unused import TEST, require_every_class
from xraytune.data.images import LENDERS
from xraytune.data.prepare import HELD_OUT, SplitData
from xraytune.data.sides import too_few_tested

_SAMPLES = 5
_NUMBERS = [25 * 2**power for power in range(20)]
"""The numbers of patients that are compared by default, as far as there are enough patients."""
_TEST_SHARE = 0.25
"""At least this share of the patients is held out for scoring."""
_FEWEST = math.ceil(2 * _SAMPLES / (1 - _TEST_SHARE))
"""The fewest patients of whom each sample gets two."""
_SPARE = 1.2
"""Patients set aside for real extra images, as a multiple of the expected number, because patients
differ in their numbers of images."""

Samples: TypeAlias = Mapping[int, Sequence[SplitData]]
"""The images of each sample, by the number of patients that a network trains on."""


@frozen
class Division:
    """Disjoint samples of patients, and the patients who are scored, by name.

    Attributes:
        numbers: The numbers of patients that are compared, ascending, two or more.
        blocks: The patients of each sample. A network trains on the first n of them; its real extra
            images are of the others.
        scored: The patients who are scored.
    """

    numbers: tuple[int, ...]
    blocks: tuple[tuple[str, ...], ...]
    scored: tuple[str, ...]

    def samples(self, prepared: SplitData) -> Samples:
        """Return the images of each sample of each number of patients.

        The patients who are scored are the test side, and those of the sample who are not trained
        on are the lenders.
        """
        samples: dict[int, list[SplitData]] = {number: [] for number in self.numbers}
        for number, block in product(self.numbers, self.blocks):
            side_of = dict.fromkeys(self.scored, TEST)
            side_of |= dict.fromkeys(block[:number], "train")
            side_of |= dict.fromkeys(block[number:], LENDERS)
            images = (
                replace(image, side=side_of.get(image.patient, image.side))
                for image in prepared.images
                if image.patient in side_of or image.side in HELD_OUT
            )
            samples[number].append(replace(prepared, images=tuple(images)))
        return samples


def divide(
    patients: Sequence[str], request: Sequence[int], ratio: float, *, seen_count: int = 0
) -> Division:
    """Divide patients, in nested order, into disjoint samples and patients to score.

    By default, the numbers of patients are 25, 50 and so on. Each sample also has patients for real
    extra images, enough for `ratio` extra images per image as far as there are patients. The
    patients that a search would train on first are scored, so that `confirm` scores few of them.

    `seen_count` further patients are left out because a generator has seen their images.

    Raises DataError if there are fewer than two numbers of patients, or if they do not leave a
    quarter of the patients to score.
    """
    largest = int((1 - _TEST_SHARE) * len(patients)) // _SAMPLES
    if largest < 2:
        what = f"{len(patients):,} training patients are too few for a curve"
        if seen_count:
            what += f": the images of {seen_count:,} others were used to make the extra ones"
        raise DataError(what, fix=f"add patients: a curve needs {_FEWEST} or more")
    possible_numbers = [number for number in _NUMBERS if number <= largest]
    default_numbers = possible_numbers if len(possible_numbers) > 1 else [largest // 2, largest]
    numbers = sorted({*(request or default_numbers)})
    if len(numbers) < 2 or numbers[0] < 1 or numbers[-1] > largest:
        raise DataError(
            f"{len(patients):,} training patients make no curve of these numbers of patients",
            fix=f"give two or more, up to {largest} (--patients), or add patients",
        )
    size = min(largest, math.ceil((1 + _SPARE * ratio) * numbers[-1]))
    scored_count = len(patients) - _SAMPLES * size
    starts = range(scored_count, len(patients), size)
    return Division(
        numbers=tuple(numbers),
        blocks=tuple(tuple(patients[start : start + size]) for start in starts),
        scored=tuple(patients[:scored_count]),
    )


def require_usable(samples: Samples, where: Path) -> None:
    """Refuse (DataError) samples that lack a class, or too few patients who are scored.

    The smallest samples decide, since larger ones contain them.
    """
    number = min(samples)
    smallest = samples[number]
    for sample in smallest:
        require_every_class(sample.side("train"), sample, number)
    problem = too_few_tested(smallest[0].side(TEST), smallest[0].outputs)
    if problem:
        raise DataError(problem, where, "add patients")
