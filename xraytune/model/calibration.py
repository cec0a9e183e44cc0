"""Adapt the probabilities of a classifier of two classes to a hospital, with some of its labelled images.

Scores are usually shifted at another hospital. Platt scaling, a logistic regression of the class on
the logit of the model's probability, corrects that; the ranking of the images stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit  # type: ignore[import-untyped]

from xraytune.base.errors import DataError, Problem, counted
from xraytune.data.index import LabelledImages
from xraytune.data.shared_patients import patient_aliases, shared_patients
from xraytune.model.load import Bundle
from xraytune.model.overlap import overlap_of
from xraytune.model.predict import ImageFiles, predict_images
from xraytune.stats.classification import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibrated probability of the positive class is sigmoid(slope * logit(p) + intercept), p being the model's.

    Attributes:
        images: The number of images that it was fitted to, of so many `patients`.
        threshold: The share of positives among them: the calibrated probability with the best
        balanced accuracy.
    """

    images: int
    patients: int
    slope: float
    intercept: float
    threshold: float

    def apply(self, probabilities: Floats, positive: int) -> Floats:
        """Return calibrated probabilities of two classes, float64 [N, 2]."""
        calibrated = probabilities.copy()
        calibrated[:, positive] = expit(
            self.slope * _logits(probabilities[:, positive]) + self.intercept
        )
        calibrated[:, 1 - positive] = 1 - calibrated[:, positive]
        return calibrated


def fit_calibration(
    bundle: Bundle,
    labelled: LabelledImages,
    evaluated: LabelledImages,
    images: ImageFiles,
    *,
    reason: str,
) -> Calibration:
    """Fit a calibration to labelled images.

    Raises:
        DataError: Patients of the labelled images are also evaluated, or the model was trained or
        validated on them.
    """
    from sklearn.linear_model import LogisticRegression  # takes half a second

    regex = bundle.record.group_regex
    aliases = patient_aliases(evaluated.images, evaluated.table, regex)
    shared = shared_patients(
        labelled.images, labelled.table, evaluated.images, group_regex=regex, aliases=aliases
    )
    if (
        count := len(shared)
        or overlap_of(bundle, labelled, images.files, reason=reason)["known_patients"]
    ):
        whose = "evaluated as well" if shared else "in the model's training or validation set"
        what = f"{counted(count, 'patient')} of the images to calibrate on: {whose}"
        raise DataError(Problem(what, images.root, "calibrate on images of other patients"))
    _, probabilities, _ = predict_images(bundle.predictor(), images)
    is_positive = np.array([image.label for image in labelled.images]) == bundle.positive
    logits = _logits(probabilities[:, bundle.positive])
    regression = LogisticRegression().fit(logits[:, None], is_positive)
    slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    if slope <= 0:
        what = f"their probabilities do not increase with {bundle.record.positive_name}"
        raise DataError(
            Problem(what, images.root, "check the labels of the images to calibrate on")
        )
    patients = {image.patient for image in labelled.images}
    return Calibration(
        images=len(logits),
        patients=len(patients),
        slope=slope,
        intercept=intercept,
        threshold=float(is_positive.mean()),
    )


def _logits(probabilities: Floats) -> Floats:
    smallest = np.finfo(np.float64).eps
    return np.asarray(logit(np.clip(probabilities, smallest, 1 - smallest)))
