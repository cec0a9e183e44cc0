"""Compare a folder's scores with those of the validation images, class by class.

A threshold is valid for another folder only if images of a class score there as in validation. The comparison is within
classes, since prevalence affects neither sensitivity nor specificity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from xraytune.space.strict_model import StrictModel
from xraytune.stats.classification import Floats, Labels, auroc

_SHIFT = 0.1
"""The smallest difference worth a warning: of a probability from one half, or between two prevalences."""
_P_VALUE = 0.01


class ClassSample(StrictModel):
    """Images of one class: `scores` are probabilities of the positive class, ascending, possibly summarised."""

    images: Annotated[int, Field(ge=1)]
    patients: Annotated[int, Field(ge=1)]
    scores: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreShift:
    """How one class's scores in a folder, and its recall at the threshold, compare with those in validation.

    Attributes:
        higher: Probability that an image of the folder scores above one of validation; ties count one half.
        p_value: Two-sided p-value of `higher` = 0.5.
    """

    class_name: str
    higher: float
    p_value: float
    recall_in_validation: float
    recall: float

    @property
    def is_notable(self) -> bool:
        """Whether the difference is both large and significant."""
        return abs(self.higher - 0.5) >= _SHIFT and self.p_value < _P_VALUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How a folder differs from validation: the scores of each class, and the positive class's share of the images.

    The threshold is that of the recalls, the p-value that of equal prevalences, two-sided.
    """

    positive: str
    threshold: float
    classes: tuple[ScoreShift, ...]
    prevalence_in_validation: float
    prevalence: float
    prevalence_p_value: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a sentence for each difference that is both large and significant."""
        sentences = [self._warning(shift) for shift in self.classes if shift.is_notable]
        is_large = abs(self.prevalence - self.prevalence_in_validation) >= _SHIFT
        if is_large and self.prevalence_p_value < _P_VALUE:
            sentences.append(
                f"{self.positive} is {self.prevalence:.0%} of the images here, {self.prevalence_in_validation:.0%} in "
                "validation: this does not affect sensitivity and specificity, but changes accuracy, predictive values, F1, "
                "AUPRC, Brier score and calibration error"
            )
        return tuple(sentences)

    def _warning(self, shift: ScoreShift) -> str:
        direction = "higher" if shift.higher > 0.5 else "lower"
        recall = f"{'sensitivity' if shift.class_name == self.positive else 'specificity'} ({self.positive})"
        return (
            f"scores of {shift.class_name} images are {direction} here than in validation (an image from here scores "
            f"higher with probability {shift.higher:.2f}): at the threshold {self.threshold:.3f} {recall} is "
            f"{shift.recall:.3f} here, {shift.recall_in_validation:.3f} in validation"
        )


def class_samples(
    class_names: Sequence[str],
    labels: Labels,
    scores: Floats,
    patients: Sequence[str],
    *,
    most_scores: int | None = None,
) -> dict[str, ClassSample]:
    """Return the sample of each class, of which every one has an image, by its name, with at most so many scores.

    `scores` are probabilities of the positive class, float64 [N]; labels are in the order of the names.
    """
    samples = {}
    for label, name in enumerate(class_names):
        is_class = labels == label
        images, patient_count = int(is_class.sum()), len(np.unique(np.array(patients)[is_class]))
        summary = tuple(summarise(scores[is_class], most_scores or images).tolist())
        samples[name] = ClassSample(scores=summary, images=images, patients=patient_count)
    return samples


def summarise(scores: Floats, at_most: int) -> Floats:
    """Return the sorted scores; if there are more than `at_most`, a subset of that size, evenly spaced by rank."""
    ordered = np.sort(scores)
    if len(ordered) <= at_most:
        return ordered
    return np.asarray(ordered[((np.arange(at_most) + 0.5) * len(ordered) / at_most).astype(np.int64)])


def shift_from_validation(
    validation: Mapping[str, ClassSample], folder: Mapping[str, ClassSample], *, positive: str, threshold: float
) -> Shift:
    """Compare two samples of each of two classes.

    Sample sizes are numbers of patients, since images of one patient are similar; the tests are exact if these have the
    same score, else conservative.

    Source: Mann & Whitney 1947, normal approximation; two proportions with pooled variance.
    """

    def prevalence(samples: Mapping[str, ClassSample]) -> float:
        return samples[positive].images / sum(sample.images for sample in samples.values())

    before, now = prevalence(validation), prevalence(folder)
    n, m = (sum(sample.patients for sample in samples.values()) for samples in (validation, folder))
    pooled = (before * n + now * m) / (n + m)
    classes = []
    for name, here in folder.items():
        there = validation[name]
        both = np.concatenate([there.scores, here.scores])
        is_here = np.repeat([0, 1], [len(there.scores), len(here.scores)])
        higher = auroc(is_here, np.stack([-both, both], axis=1), positive=1)
        spread = math.sqrt((there.patients + here.patients + 1) / (12 * there.patients * here.patients))
        there_recall, recall = (
            float(np.mean((np.array(sample.scores) >= threshold) == (name == positive))) for sample in (there, here)
        )
        p_value = _two_sided((higher - 0.5) / spread)
        classes.append(
            ScoreShift(
                class_name=name, higher=higher, p_value=p_value, recall_in_validation=there_recall, recall=recall
            )
        )
    return Shift(
        positive=positive,
        threshold=threshold,
        classes=tuple(classes),
        prevalence_in_validation=before,
        prevalence=now,
        prevalence_p_value=_two_sided((now - before) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))),
    )


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))
