"""Figures of synthetic images: do they resemble real ones, cover them, and teach the same?

All functions here are pure; they take features of a pretrained network, float64 [n, D].
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from xraytune.base.records import frozen
from xraytune.stats.classification import Floats, Labels, auroc, scored_findings

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LabelledFeatures: TypeAlias = tuple[Floats, Labels]
"""Features of images, [n, D], and their classes, [n], or findings, [n, C]."""
QUALITY_FILE = "quality.json"
"""The file in a trial's folder with the `PoolReport` of its synthetic images."""
_NEIGHBOURS = 5
_C = 0.01
"""Inverse strength of the L2 penalty of the linear classifier, on standardised features."""


@frozen
class ClassQuality:
    """The figures of one class, computed from equally many synthetic and real images.

    Attributes:
        kid: Kernel inception distance (KID) of the synthetic images from val-A.
        floor: KID of val-B from val-A, which a perfect generator would reach, up to chance.
        coverage: Share of the val-A images with a synthetic one nearer than their fifth-nearest
            real neighbour.
        agreement: Share of the synthetic images that a linear classifier, trained on the train
            side, assigns to this class; see `label_agreement`. None for findings and masks.
    """

    images: int
    kid: float
    floor: float
    coverage: float
    agreement: float | None = None


@frozen
class Quality:
    """The quality of a pool.

    Attributes:
        features: The backbone and its weights, such as `mobilenet_v2 (mobilenet_v2-b0353104.pth)`.
        resolution_px: Side of the compared images.
        gan_train: AUROC on val-A of a linear classifier of features, trained only on the pool; see
            `transfer_auroc`.
        real_train: AUROC on val-A of the same classifier, trained on the train side.
    """

    features: str
    resolution_px: int
    classes: Mapping[str, ClassQuality]
    gan_train: float | None
    real_train: float | None

    @property
    def kid(self) -> float:
        """KID minus its floor, averaged over classes."""
        return float(np.mean([quality.kid - quality.floor for quality in self.classes.values()]))

    def columns(self) -> dict[str, float | None]:
        """Return the figures that a study lists; the agreement is that of the worst class."""
        return {
            "gan_kid": self.kid,
            "gan_coverage": min(quality.coverage for quality in self.classes.values()),
            "gan_label_agreement": self.worst_agreement[1],
            "gan_train_auroc": self.gan_train,
        }

    @property
    def worst_agreement(self) -> tuple[str, float | None]:
        """The class with the lowest `agreement`, and this agreement."""
        shares = {
            name: quality.agreement
            for name, quality in self.classes.items()
            if quality.agreement is not None
        }
        return min(shares.items(), key=itemgetter(1)) if shares else ("", None)

    def __str__(self) -> str:
        """Describe the figures: KID .012, coverage .34, label agreement .81 (NORMAL) ..."""
        figures = self.columns()
        text = f"KID {self.kid:.3f}, coverage {figures['gan_coverage']:.2f}"
        worst, share = self.worst_agreement
        if share is not None:
            text += f", label agreement {share:.2f} ({worst})"
        if self.gan_train is None or self.real_train is None:
            return text
        real = f"(real images: {self.real_train:.2f})"
        return f"{text}, GAN-train AUROC {self.gan_train:.2f} {real}"


@frozen
class PoolReport:
    """Quality and memorisation of a trial's synthetic images.

    `note` says why the quality was not measured, or is "". `copies` says how many images copy
    training images if the memorisation gate finds more than chance explains, or is "".
    """

    quality: Quality | None
    note: str
    copies: str


def kernel_inception_distance(real: Floats, synthetic: Floats) -> float:
    """Return the unbiased squared MMD with the kernel (x·y / D + 1)³. Lower is better.

    It can be slightly negative. Features are float64 [n, D] and [m, D], n and m at least 2.

    From: Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3; kernel of Bińkowski et al.
    2018.
    """
    from sklearn.metrics.pairwise import polynomial_kernel  # takes a second to import

    distance = -2 * polynomial_kernel(real, synthetic).mean()
    for features in (real, synthetic):
        kernel = polynomial_kernel(features)
        pairs = len(features) * (len(features) - 1)
        distance += (kernel.sum() - np.trace(kernel)) / pairs
    return float(distance)


def coverage(real: Floats, synthetic: Floats) -> float:
    """Return the share of real images that have a synthetic image nearby.

    A synthetic image is nearby if it is nearer than the real image's fifth-nearest real neighbour.

    Features are float64 [n, D] and [m, D], n above 5.

    From: Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models".
    """
    from sklearn.metrics import pairwise_distances_argmin_min  # takes a second to import
    from sklearn.neighbors import NearestNeighbors

    neighbour_distances, _ = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(real).kneighbors()
    _, synthetic_distances = pairwise_distances_argmin_min(real, synthetic)
    return float((synthetic_distances < neighbour_distances[:, -1]).mean())


def label_agreement(train: LabelledFeatures, pool: LabelledFeatures) -> list[float]:
    """Return, for each class, the share of a pool's images that a classifier assigns to it.

    The classifier is linear, and trained on the features, float64 [n, D], and classes, [n], of real
    images. A generator may rank its classes correctly and still put the images of two classes on
    one side of the classifier's threshold.
    """
    features, labels = train
    pool_features, classes = pool
    predicted = _linear_classifier().fit(features, labels).predict(pool_features)
    return [float((predicted[classes == label] == label).mean()) for label in np.unique(labels)]


def _linear_classifier() -> Pipeline:
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=2000))


def transfer_auroc(
    train: LabelledFeatures, scored: LabelledFeatures, *, positive: int
) -> float | None:
    """Return the AUROC, on one set of images, of a linear classifier trained on another.

    With findings, this is the mean over findings. It is None if there is only one class, or if no
    finding has enough images. A finding that all or none of the training images have counts as
    chance.
    """
    features, targets = train
    scored_features, truth = scored
    has_findings = targets.ndim == 2
    if not (scored_findings(truth) if has_findings else targets.any()):
        return None
    model = _linear_classifier()
    probabilities = []
    for states in targets.T if has_findings else targets[None]:
        is_known = states >= 0
        predicted = np.full((len(scored_features), 2), 0.5)
        if len(np.unique(states[is_known])) > 1:
            predicted = model.fit(features[is_known], states[is_known]).predict_proba(
                scored_features
            )
        probabilities.append(predicted)
    if not has_findings:
        return auroc(truth, probabilities[0], positive=positive)
    finding_scores = np.stack([predicted[:, 1] for predicted in probabilities], axis=1)
    return auroc(truth, finding_scores, positive=positive)
