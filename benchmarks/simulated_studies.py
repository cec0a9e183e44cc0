"""Studies whose truth is known: scores of several arms' replicates on the images of a test folder, from a binormal model.

A replicate's score of an image is its separation, for an image of pneumonia, plus an error of
variance 1. Of the error, .8 is common to all replicates of all arms (the image is hard), .05 to all
of an arm and .15 is the replicate's own; each of these is to 60 % the patient's and to 40 % the
image's. The separation varies with the replicate. So the true AUROC of an arm over patients and
replicates has a closed form.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm  # type: ignore[import-untyped]

from xraytune.base.seeding import numpy_generator
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import (
    StructuralComponents,
    mean_overlap,
    outside_components,
    placement_variance,
    structural_components,
)
from xraytune.stats.verdict import Evidence, estimate_evidence

IMAGES_OF_NORMAL_PATIENTS = {1: 1141, 2: 13, 3: 54, 4: 3}
IMAGES_OF_PNEUMONIA_PATIENTS = {
    1: 1870, 2: 283, 3: 102, 4: 53, 5: 47, 6: 35, 7: 21, 8: 13, 9: 6, 10: 4, 11: 4, 13: 1, 14: 2, 16: 1, 30: 1
}  # fmt: skip
"""Images of a patient -> patients: counted over the file names in the train folder of Kermany et al. 2018."""

_NORMAL_SHARE = 0.45
_ERRORS = 0.8, 0.05, 0.15
"""Of a score's error variance 1: common to all, of the arm, the replicate's own."""
_PATIENTS_SHARE = 0.6
_AT_ONCE = 20
_OF_TRAINING_PATIENTS = 0.8
"""Of a replicate's own error, and of the variance of its separation: what adds up over its training patients. Its seeds have the rest."""

_Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is true of an arm.

    Attributes: auroc: Mean over patients and replicates. replicates_sd: Standard deviation of the
        AUROC over replicates, with patients without number, at AUROC .955.
    """

    auroc: float
    replicates_sd: float
    is_one_network: bool = False
    """Whether all replicates are the same network, as those of a donor's classifier."""


def simulate(
    arms: Sequence[Arm],
    *,
    patients: int,
    replicates: int,
    studies: int,
    seed: int,
) -> Iterator[StructuralComponents]:
    """Return the scores and structural components of simulated studies."""
    drawn = draw_scores(arms, patients=patients, replicates=replicates, studies=studies, seed=seed)
    for labels, names, scores in drawn:
        shape = scores.shape[:-1]
        scores = scores.reshape(-1, len(labels))
        found = structural_components(
            labels, np.stack([-scores, scores], axis=2), names, positive=1
        )
        aurocs, components = found.scores.reshape(shape), found.components.reshape(*shape, patients)
        for number in range(len(aurocs)):
            yield StructuralComponents(
                scores=aurocs[number],
                components=components[number],
                effective_patients=found.effective_patients,
                variance=placement_variance,
            )


def draw_scores(
    arms: Sequence[Arm],
    *,
    patients: int,
    replicates: int,
    studies: int,
    seed: int,
) -> Iterator[tuple[Labels, list[str], Floats]]:
    """Draw studies, each with new replicates and new patients.

    Twenty at once share labels [N] and patients [N], and have scores [studies, arms, K, N].
    """
    for start in range(0, studies, _AT_ONCE):
        generator = numpy_generator(seed, "studies", start)
        labels, patient_of_image = _test_folder(generator, patients)
        shape = (min(_AT_ONCE, studies - start), len(arms), replicates)
        scores = _scores(generator, arms, shape, labels, patient_of_image)
        yield labels, [f"{number:06d}" for number in patient_of_image], scores


def against_controls(studies: Sequence[StructuralComponents]) -> list[list[Evidence]]:
    """Return each study's evidence on arm 0 against every other arm."""
    controls = range(1, len(studies[0].scores))
    return [
        [estimate_evidence(study.pair(0, control)) for control in controls] for study in studies
    ]


def _test_folder(
    generator: np.random.Generator, patients: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels and patients of the images, [N]; each patient has images of one class."""
    normal = round(_NORMAL_SHARE * patients)
    sizes = [
        generator.choice(
            list(counts), size, p=np.array(list(counts.values())) / sum(counts.values())
        )
        for counts, size in (
            (IMAGES_OF_NORMAL_PATIENTS, normal),
            (IMAGES_OF_PNEUMONIA_PATIENTS, patients - normal),
        )
    ]
    patient_of_image = np.repeat(np.arange(patients), np.concatenate(sizes))
    return (patient_of_image >= normal).astype(np.int64), patient_of_image


def _scores(
    generator: np.random.Generator,
    arms: Sequence[Arm],
    shape: tuple[int, int, int],
    labels: NDArray[np.int64],
    patient_of_image: NDArray[np.int64],
) -> Floats:
    """[studies, arms, K, N]."""
    studies, arm_count, _ = shape
    common, of_arm, own = _ERRORS
    scores = _error(generator, patient_of_image, own, *shape)
    scores += _error(generator, patient_of_image, of_arm, studies, arm_count, 1)
    scores += _error(generator, patient_of_image, common, studies, 1, 1)
    scores += (_separations(generator, arms, shape)[..., None] * labels).astype(np.float32)
    for place, arm in enumerate(arms):
        if arm.is_one_network:
            scores[:, place] = scores[:, place, :1]
    return scores.astype(np.float64)


def _error(
    generator: np.random.Generator,
    patient_of_image: NDArray[np.int64],
    variance: float,
    *levels: int,
) -> _Singles:
    """Return errors of images, [*levels, N], which a patient's images share in part."""
    of_patient = generator.standard_normal((*levels, patient_of_image[-1] + 1), dtype=np.float32)
    of_image = generator.standard_normal((*levels, len(patient_of_image)), dtype=np.float32)
    of_patient *= np.float32(np.sqrt(variance * _PATIENTS_SHARE))
    of_image *= np.float32(np.sqrt(variance * (1 - _PATIENTS_SHARE)))
    of_image += of_patient[..., patient_of_image]
    return of_image


def simulate_outside(
    arms: Sequence[Arm],
    *,
    patients: int,
    per_draw: int,
    replicates: int,
    studies: int,
    seed: int,
) -> Iterator[StructuralComponents]:
    """Return studies of replicates that are scored on all patients outside their own draw.

    Each patient adds to the separation and to the errors of the networks that are trained on them.
    """
    common, of_arm, own = _ERRORS
    from_patients, from_seeds = np.sqrt([_OF_TRAINING_PATIENTS, 1 - _OF_TRAINING_PATIENTS])
    mean, deviation = np.array([separation(arm) for arm in arms]).T[..., None]
    for start in range(0, studies, _AT_ONCE):
        generator = numpy_generator(seed, "outside", start)
        labels, patient_of_image = _test_folder(generator, patients)
        draws = draw_in_turn(generator, patients, per_draw, replicates)
        weights = np.zeros((replicates, patients), dtype=np.float32)
        for replicate, draw in enumerate(draws):
            weights[replicate, draw] = 1 / np.sqrt(per_draw)
        levels = (min(_AT_ONCE, studies - start), len(arms))
        shape = (*levels, patients, len(labels))
        of_patients = generator.standard_normal(shape, dtype=np.float32)
        of_training = np.sqrt(own) * (weights @ of_patients)
        of_seeds = _error(generator, patient_of_image, own, *levels, replicates)
        scores = (from_patients * of_training + from_seeds * of_seeds).astype(np.float64)
        scores += _error(generator, patient_of_image, of_arm, *levels, 1)
        scores += _error(generator, patient_of_image, common, levels[0], 1, 1)
        worth = generator.standard_normal((*levels, patients)) @ weights.T
        luck = generator.standard_normal(worth.shape)
        separations = mean + deviation * (from_patients * worth + from_seeds * luck)
        scores += separations[..., None] * labels
        scores[..., weights[:, patient_of_image] > 0] = np.nan
        results = scores.reshape(-1, len(labels))
        found = outside_components(
            labels,
            np.stack([-results, results], axis=2),
            [f"{patient:06d}" for patient in patient_of_image],
            positive=1,
            overlap=mean_overlap([[f"{patient}" for patient in draw] for draw in draws]),
        )
        aurocs = found.scores.reshape(*levels, replicates)
        components = found.components.reshape(*levels, replicates, patients)
        for number in range(len(aurocs)):
            yield replace(found, scores=aurocs[number], components=components[number])


def draw_in_turn(
    generator: np.random.Generator, patients: int, per_draw: int, count: int
) -> list[list[int]]:
    """Return draws of patients as `confirm` makes them: nobody again before everybody was drawn."""
    waiting: list[int] = []
    draws = []
    for _ in range(count):
        if len(waiting) < per_draw:
            waiting += generator.permutation(patients).tolist()
        draw = [*dict.fromkeys(waiting)][:per_draw]
        for patient in draw:
            waiting.remove(patient)
        draws.append(draw)
    return draws


def _separations(
    generator: np.random.Generator, arms: Sequence[Arm], shape: tuple[int, int, int]
) -> Floats:
    """Of the two classes' scores, [studies, arms, K].

    Two images' difference in score is normal with the mean m and the variance 2 + s^2, s^2 the
    replicates': AUROC = Phi(m / sqrt(2 + s^2)).
    """
    mean, deviation = np.array([separation(arm) for arm in arms]).T
    drawn: Floats = mean[:, None] + generator.standard_normal(shape) * deviation[:, None]
    return drawn


def separation(arm: Arm) -> tuple[float, float]:
    """Return the mean and the standard deviation over replicates of the classes' separation."""
    auroc_for_separation = norm.pdf(norm.ppf(0.955)) / np.sqrt(2)
    deviation = arm.replicates_sd / auroc_for_separation
    mean = norm.ppf(arm.auroc) * np.sqrt(2 + deviation**2)
    return float(mean), float(deviation)
