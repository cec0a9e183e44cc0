"""Adapt the probabilities of a classifier of two classes to a hospital, with a few of its images.

Scores are usually shifted at another hospital. Platt scaling, a logistic regression of the class on
the logit of the model's probability, corrects that; the ranking of the images stays as it is.
"""

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped]

from xraytune.base.errors import DataError
from xraytune.base.records import frozen
from xraytune.data.index import LabelledImages
from xraytune.stats.classification import Floats
from xraytune.stats.threshold import logits_of, platt_scaling
from xraytune.tasks.prediction import ImageFiles, Pixels, Predictor, predict_images


@frozen
class Calibration:
    """The calibrated probability is sigmoid(slope * logit(p) + intercept), p being the model's.

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

    def apply(self, model: Predictor) -> Predictor:
        """Return the model with calibrated probabilities and their threshold."""
        positive = model.record.positive_number

        def run(pixels: Pixels) -> Floats:
            probabilities = model.run(pixels)
            logits = logits_of(probabilities[:, positive])
            probabilities[:, positive] = expit(self.slope * logits + self.intercept)
            probabilities[:, 1 - positive] = 1 - probabilities[:, positive]
            return probabilities

        record = model.record.model_copy(update={"threshold": self.threshold})
        return Predictor(record=record, run=run)


def fit_calibration(model: Predictor, labelled: LabelledImages, images: ImageFiles) -> Calibration:
    """Fit a calibration of two classes to labelled images.

    DataError if the probability of the positive class does not increase with it.
    """
    positive = model.record.positive_number
    _, probabilities, _ = predict_images(model, images)
    is_positive = np.array([image.label == positive for image in labelled.images])
    slope, intercept = platt_scaling(is_positive, probabilities[:, positive])
    if slope <= 0:
        what = f"their probabilities do not increase with {model.record.positive}"
        fix = "check the labels of the images to calibrate on"
        raise DataError(what, images.root, fix)
    return Calibration(
        images=len(is_positive),
        patients=len({image.patient for image in labelled.images}),
        slope=slope,
        intercept=intercept,
        threshold=float(is_positive.mean()),
    )
