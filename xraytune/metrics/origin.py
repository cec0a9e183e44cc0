"""Origin probe: can a classifier infer the class of a training image from signs that the image is synthetic?

If recognisably synthetic images are more frequent in one class than in another, "synthetic means pneumonia" holds for the
training images, but not for patients. The gap needs no training of a classifier: it follows from how well a linear probe
recognises the synthetic images (`origin_aurocs`) and from their share of the training images of each class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xraytune.metrics.classification import Floats
from xraytune.metrics.generator_quality import linear_classifier, transfer_auroc

PROBE_PX = 32
"""Side of the images whose pixels are probed in addition to the features, which average small marks away."""
MOST_GAP = 0.2
"""A larger gap is flagged (docs/decisions/0036-origin-probe.md)."""
_FOLDS = 5
_MOST_SHARE_DIFFERENCE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginGap:
    """How much more frequent recognisably synthetic images are in one class than in another.

    Attributes:
        shares: By class, the share of synthetic images among its training images (`mix.plan.extra_shares`).
        detectability: By class, the AUROC of the probe of that class.
        gap: The largest difference between two classes in the share that one probe recognises: for the probe of class A,
            share of A · (2 AUROC in A - 1) - share of B · (2 AUROC in B - 1).
        towards: Class A of the largest difference.
        sentence: The finding; for a large gap, also what to do.
    """

    shares: Mapping[str, float]
    detectability: Mapping[str, float]
    gap: float
    towards: str
    is_large: bool
    sentence: str


def origin_gap(aurocs: Mapping[str, Mapping[str, float]], shares: Mapping[str, float]) -> OriginGap:
    """Return the gap of a mix of real and synthetic images of two or more classes.

    Args:
        aurocs: `Quality.origin` of the synthetic images: by class of the probe, by class of the images.
        shares: `OriginGap.shares`.
    """
    exposed = {
        probe: {name: shares[name] * max(2 * auroc - 1, 0.0) for name, auroc in by_class.items()}
        for probe, by_class in aurocs.items()
    }
    gaps = {(one, other): own[one] - own[other] for one, own in exposed.items() for other in own if other != one}
    (most, least), gap = max(gaps.items(), key=lambda item: item[1])
    detectability = {name: aurocs[name][name] for name in aurocs}
    shown = ", ".join(f"{name} {auroc:.2f}" for name, auroc in detectability.items())
    sentence = f"Origin probe: AUROC of synthetic vs real images {shown}"
    if gap > MOST_GAP:
        is_uneven = shares[most] - shares[least] > _MOST_SHARE_DIFFERENCE
        fix = "use balance: natural" if is_uneven else f"look for marks or texture that only images of {most} have"
        sentence += (
            f"; the probe recognises {exposed[most][most]:.0%} of the training images of {most} as synthetic, but only "
            f"{exposed[most][least]:.0%} of those of {least}, so a classifier can learn that synthetic means {most}: "
            f"{fix}, or use a better generator."
        )
    else:
        sentence += f"; the share recognised as synthetic differs by at most {max(gap, 0.0):.0%} between classes."
    return OriginGap(
        shares=shares,
        detectability=detectability,
        gap=max(gap, 0.0),
        towards=most,
        is_large=gap > MOST_GAP,
        sentence=sentence,
    )


def origin_aurocs(images: Sequence[Sequence[tuple[Floats, Floats]]]) -> Floats:
    """Return the AUROC with which the probe of each class separates synthetic from real images of each class, [C, C].

    A probe is a logistic regression on one view of the images, such as frozen features; the best view counts. In its own
    class, the AUROC is the mean over five folds of a cross-validation, contiguous so that few patients are split.

    Args:
        images: For each of C classes, each view of its real and its synthetic images, float64 [n, D], n >= 5. Images of a
            patient are adjacent.
    """
    return np.array([[max(map(_auroc, probed, scored)) for scored in images] for probed in images])


def _auroc(probed: tuple[Floats, Floats], scored: tuple[Floats, Floats]) -> float:
    if probed is not scored:
        return transfer_auroc(probed, scored, positive=1)
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # takes a second to import

    images = np.concatenate(probed)
    is_synthetic = np.arange(len(images)) >= len(probed[0])
    found = cross_val_score(linear_classifier(), images, is_synthetic, cv=StratifiedKFold(_FOLDS), scoring="roc_auc")
    return float(found.mean())
