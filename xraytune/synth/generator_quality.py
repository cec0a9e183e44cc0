"""Measure a generator: do its images look like real ones, vary like them, and teach a classifier the same?

Pure functions of features of a pretrained network, float64 [n, D]. The kernel inception distance (KID) compares two
distributions. Precision measures how synthetic images lie among real ones, recall and coverage how well
synthetic images reach the real ones. GAN-train and GAN-test are AUROCs of a linear classifier trained on one set and
scored on the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from xraytune.stats.classification import Floats, Labels, auroc, scored_findings

LabelledFeatures: TypeAlias = tuple[Floats, Labels]
"""Features of images, [n, D], and their classes, [n], or findings, [n, C]."""
QUALITY_FILE = "quality.json"
"""In a trial's folder: the `PoolReport` of its synthetic images."""
NEIGHBOURS = 5
COMMON_BLUR_PX = 1.5
SCALE_PX = (0.5, 0.8, 1.1, 1.5, 2.0, 3.0, 4.0)
"""Standard deviations of the blurs, in pixels of a 64 px image; at 128 px, twice as many pixels."""
_LEAST = {"gan_coverage": 0.2, "gan_blurred_recall": 0.5, "gan_blurred_coverage": 0.8}
_MOST_TRAIN_GAP = 0.03
_C = 0.01
"""Inverse strength of the L2 penalty of the linear classifier, on standardised features."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhoods:
    """Real and synthetic images compared by neighbourhoods: balls around an image up to its fifth neighbour.

    Attributes:
        precision: Share of synthetic images in the neighbourhood of a real one.
        recall: Share of real images in the neighbourhood of a synthetic one.
        coverage: Share of real images with a synthetic one in their neighbourhood.
    """

    precision: float
    recall: float
    coverage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassQuality:
    """The figures of one class, of as many synthetic as real images: `full` of sharp ones, `blurred` after the common blur.

    Attributes:
        kid: KID of the synthetic images against val-A.
        floor: KID of val-B against val-A: what a perfect generator would have, up to chance.
    """

    images: int
    kid: float
    floor: float
    full: Neighbourhoods
    blurred: Neighbourhoods


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """The quality of a pool.

    Attributes:
        features: The backbone and its weights, such as `mobilenet_v2 (mobilenet_v2-b0353104.pth)`.
        resolution_px: Side of the compared images.
        gan_train: AUROC on val-A of a linear classifier of features, trained only on the pool; see `transfer_auroc`.
        gan_test: AUROC on the pool of a linear classifier trained on the train side.
        real_train: AUROC of the same classifier on val-A.
        blur_px: The blur of val-B images that gives the same KID, clipped to the range of `SCALE_PX`.
    """

    features: str
    resolution_px: int
    classes: Mapping[str, ClassQuality]
    gan_train: float | None
    gan_test: float | None
    real_train: float | None
    blur_px: float

    @property
    def kid(self) -> float:
        """KID minus its floor, averaged over classes."""
        return float(np.mean([quality.kid - quality.floor for quality in self.classes.values()]))

    def columns(self) -> dict[str, float | None]:
        """Return the figures that a study lists; precision, recall and coverage are those of the worst class."""
        full, blurred = ([getattr(quality, band) for quality in self.classes.values()] for band in ("full", "blurred"))
        return {
            "gan_kid": self.kid,
            "gan_blur_px": self.blur_px,
            "gan_precision": min(near.precision for near in full),
            "gan_recall": min(near.recall for near in full),
            "gan_coverage": min(near.coverage for near in full),
            "gan_blurred_recall": min(near.recall for near in blurred),
            "gan_blurred_coverage": min(near.coverage for near in blurred),
            "gan_train_auroc": self.gan_train,
        }

    def __str__(self) -> str:
        return quality_text(self.columns(), self.real_train)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """Quality and memorisation of a trial's synthetic images.

    `note` says why the quality could not be measured, `copies` which images copy training images, if the memorisation gate
    finds an excess; else they are "".
    """

    quality: Quality | None
    note: str
    copies: str


def quality_text(figures: Mapping[str, float | None], real_train: float | None) -> str:
    """Return figures (`Quality.columns`) as text: `as far from real images as a blur of 1.5 px at 64 px, coverage ...`."""
    blur_px = figures["gan_blur_px"] or 0.0
    distance = f"as far from real images as a blur of {blur_px:.1f} px at 64 px"
    if blur_px <= SCALE_PX[0]:
        distance = f"closer to real images than a blur of {SCALE_PX[0]:g} px at 64 px"
    elif blur_px >= SCALE_PX[-1]:
        distance = f"farther from real images than a blur of {SCALE_PX[-1]:g} px at 64 px"
    short = {name: "-" if value is None else _short(value) for name, value in figures.items()}
    text = f"{distance}, coverage {short['gan_coverage']} ({short['gan_blurred_coverage']} after a blur)"
    if real_train is None:
        return text
    return f"{text}, GAN-train AUROC {short['gan_train_auroc']} (real images: {_short(real_train)})"


def _short(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)


def shortcomings(figures: Mapping[str, float | None], real_train: float | None) -> tuple[str, ...]:
    """Return the columns in which a generator misses the thresholds of docs/decisions/0027-generator-quality.md."""
    least = {**_LEAST, **({} if real_train is None else {"gan_train_auroc": real_train - _MOST_TRAIN_GAP})}
    return tuple(name for name, bound in least.items() if (figures[name] or 0.0) < bound)


def kernel_inception_distance(real: Floats, synthetic: Floats) -> float:
    """Return the unbiased squared MMD with the kernel (x·y / D + 1)³. Lower is better; it can be slightly negative.

    Args:
        real: Features, float64 [n, D], n >= 2.
        synthetic: Features of the same number of images: torchmetrics' estimate is unbiased only for equal numbers.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3; kernel of Bińkowski et al. 2018.
    """
    import torch
    from torchmetrics.image.kid import poly_mmd  # takes seconds to import

    if len(real) != len(synthetic):
        raise ValueError(f"{len(real)} real and {len(synthetic)} synthetic images")
    return float(poly_mmd(torch.from_numpy(real), torch.from_numpy(synthetic)))


def neighbourhoods(real: Floats, synthetic: Floats) -> Neighbourhoods:
    """Return precision, recall and coverage of features, float64 [n, D] and [m, D], n and m above 5.

    Source: Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models"; Naeem et al.
    2020, "Reliable Fidelity and Diversity Metrics for Generative Models".
    """
    from sklearn.metrics import pairwise_distances  # takes a second to import

    def radii(features: Floats) -> Floats:
        """Return the distance of each image to its fifth-nearest neighbour, not counting itself."""
        return np.asarray(np.partition(pairwise_distances(features), NEIGHBOURS, axis=1)[:, NEIGHBOURS])

    distances = pairwise_distances(real, synthetic)
    in_real = distances < radii(real)[:, None]
    return Neighbourhoods(
        precision=float(in_real.any(axis=0).mean()),
        recall=float((distances < radii(synthetic)).any(axis=1).mean()),
        coverage=float(in_real.any(axis=1).mean()),
    )


def transfer_auroc(train: LabelledFeatures, scored: LabelledFeatures, *, positive: int) -> float | None:
    """Return the AUROC of a linear classifier trained on one set of images, on another; of findings, their mean.

    None with one class, or if no finding has enough images. A finding that all or none of the training images have is at
    chance.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (features, targets), (others, truth) = train, scored

    def probabilities(labels: Labels) -> Floats:
        if len(np.unique(labels[labels >= 0])) < 2:
            return np.full((len(others), 2), 0.5)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=2000))
        model.fit(features[labels >= 0], labels[labels >= 0])
        return np.asarray(model.predict_proba(others))

    if targets.ndim == 1:
        return auroc(truth, probabilities(targets), positive=positive) if targets.any() else None
    if not scored_findings(truth):
        return None
    return auroc(truth, np.stack([probabilities(states)[:, 1] for states in targets.T], axis=1), positive=positive)
