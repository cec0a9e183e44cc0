"""Test whether a generator memorised training images, by comparing its images with unseen X-rays.

An image's *closeness* is its distance to the nearest training patient divided by the mean distance
to the next 50: near 1 for an image that is no closer to one patient than to others, near 0 for a
copy. The plain distance does not work, since GAN images are blurred and a blurred image is closer
to everything. Neither weights nor random numbers are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_SCALES = ((32, 2), (16, 1))
"""Side of the compared images and the largest shift, in pixels."""
_BLURS_PX = (1.0, 2.0)
"""Standard deviations of the blurs applied to unseen images, at 32 px."""
_REFERENCE_PATIENTS = 50
_MOST_UNSEEN = 500
_QUANTILE = 0.01
_IMAGES_AT_ONCE = 256
_PAIRS_AT_ONCE = 2**23


@dataclass(frozen=True, slots=True, kw_only=True)
class Closeness:
    """How close Q images are to the training images: a `ratio` in [0, 1].

    `nearest` is the index of the nearest training image.
    """

    ratio: NDArray[np.float64]
    nearest: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memorisation:
    """The numbers of synthetic images and of unseen patients, and what their closeness says.

    Attributes:
        threshold: The unseen patients' 1 % quantile of closeness; the minimum if there are fewer
            than 199.
        near: Number of synthetic images below it.
        chance: P-value: the probability of at least this many if the synthetic images were real
            ones of other patients.
    """

    images: int
    unseen: int
    threshold: float
    near: int
    chance: float


def measure_closeness(
    images: NDArray[np.uint8], training: NDArray[np.uint8], training_patients: Sequence[str]
) -> Closeness:
    """Return how much closer each image is to one training patient than to the next 50.

    Images are centred and scaled to length 1, which removes brightness and contrast. The distance
    is the smallest over a flip and shifts of up to a sixteenth of the side. The ratio is the
    smaller one of two scales, 32 px and 16 px; at the latter noise does not hide a copy. A
    patient's distance is that of their nearest image, so that two images of one patient do not hide
    a copy of either. With a single patient the ratio is 1.

    `images` are uint8 [Q, h, w], `training` uint8 [N, h, w], at the size and sharpness of the
    generator's training; N is at least 1.

    Source: Carlini et al. 2023, "Extracting Training Data from Diffusion Models": their distance
    for CIFAR-10, relative to the mean over the 50 nearest images; here over patients, without the
    nearest.
    """
    return _measure_shrunk(_shrink(images), training, training_patients)


def measure_unseen(
    images: NDArray[np.uint8],
    patients: Sequence[str],
    training: NDArray[np.uint8],
    training_patients: Sequence[str],
) -> NDArray[np.float64]:
    """Return the closeness of a real image of each unseen patient, float64 [n].

    Unseen patients are those that the generator was not trained on.

    It is the smallest of three: of the image itself, and blurred by 1 and 2 px at 32 px, so blur
    alone never makes a synthetic image closer than unseen ones. Only the first image of a patient
    is used, since further ones are not independent, and at most 500 patients, evenly spaced.

    `images` are uint8 [N, h, w], at the size and sharpness of the training images; the other
    arguments are those of `measure_closeness`.
    """
    _, firsts = np.unique(np.asarray(patients), return_index=True)
    if len(firsts) > _MOST_UNSEEN:
        firsts = firsts[np.linspace(0, len(firsts) - 1, _MOST_UNSEEN).round().astype(np.int64)]
    sharp = _shrink(images[firsts])
    versions = [sharp, *(blur(sharp, sigma_px) for sigma_px in _BLURS_PX)]
    ratios = [_measure_shrunk(version, training, training_patients).ratio for version in versions]
    return np.asarray(np.stack(ratios).min(axis=0))


def compare_with_unseen(
    synthetic: NDArray[np.float64], unseen: NDArray[np.float64]
) -> Memorisation:
    """Count the synthetic images below the unseen patients' 1 % quantile, with its p-value.

    `synthetic` is `Closeness.ratio` of the generator's images, [m], `unseen` is `measure_unseen`,
    [n]; m and n at least 1.
    """
    rank = max(1, int(_QUANTILE * (len(unseen) + 1)))
    threshold = float(np.sort(unseen)[rank - 1])
    near = int((synthetic < threshold).sum())
    return Memorisation(
        images=len(synthetic),
        unseen=len(unseen),
        threshold=threshold,
        near=near,
        chance=exceedance_p_value(near, len(synthetic), rank, len(unseen)),
    )


def exceedance_p_value(count: int, drawn: int, rank: int, observed: int) -> float:
    """Return the p-value of `count`, for values that are all independent and equally distributed.

    It is P(at least `count` of `drawn` new values are below the `rank`-th smallest of `observed`
    ones). The threshold is itself an observation, so the count is not binomial. It is at least
    `count` exactly if fewer than `rank` of the smallest `count + rank - 1` of all values are
    observed ones. Any subset is equally likely to be the smallest, so this is a hypergeometric
    tail, exact for any `observed` and binomial in the limit.

    Source: Epstein 1954, "Tables for the Distribution of the Number of Exceedances", for samples of
    equal size.
    """
    if count == 0:
        return 1.0
    smallest = count + rank - 1
    ways = sum(comb(observed, among) * comb(drawn, smallest - among) for among in range(rank))
    return ways / comb(observed + drawn, smallest)


def _shrink(images: NDArray[np.uint8]) -> Tensor:
    return _resize(torch.from_numpy(np.array(images)).float(), _SCALES[0][0])


def _resize(images: Tensor, side_px: int) -> Tensor:
    if images.shape[1:] == (side_px, side_px):
        return images
    return functional.interpolate(
        images[:, None], size=(side_px, side_px), mode="bilinear", antialias=True
    )[:, 0]


def blur(images: Tensor, sigma_px: float) -> Tensor:
    """Blur images, float32 [n, S, S], with a Gaussian whose weights sum to 1 at the edges too."""
    pixels = torch.arange(images.shape[1], dtype=images.dtype)
    weights = torch.softmax(-((pixels[:, None] - pixels[None, :]) ** 2) / (2 * sigma_px**2), dim=1)
    return weights @ images @ weights.T


def _measure_shrunk(
    images: Tensor, training: NDArray[np.uint8], training_patients: Sequence[str]
) -> Closeness:
    """`measure_closeness` of images [Q, 32, 32]."""
    _, patient_of_image = np.unique(np.asarray(training_patients), return_inverse=True)
    columns = torch.from_numpy(patient_of_image.astype(np.int64))
    small_training = _shrink(training)
    ratio = torch.full((len(images),), torch.inf)
    nearest = torch.zeros(len(images), dtype=torch.int64)
    at_once = max(1, min(_IMAGES_AT_ONCE, _PAIRS_AT_ONCE // len(training)))
    for side_px, shift_px in _SCALES:
        inner = slice(shift_px, side_px - shift_px)
        templates = _standardise(_resize(small_training, side_px)[:, inner, inner]).T.contiguous()
        for start in range(0, len(images), at_once):
            block = slice(start, start + at_once)
            distances = _measure_distances(_resize(images[block], side_px), templates, shift_px)
            nearer = _divide_by_next(distances, columns)
            nearest[block] = torch.where(
                nearer < ratio[block], distances.argmin(dim=1), nearest[block]
            )
            ratio[block] = torch.minimum(ratio[block], nearer)
    return Closeness(ratio=ratio.double().numpy(), nearest=nearest.numpy())


def _standardise(images: Tensor) -> Tensor:
    """Return images [n, h, w] as rows of mean 0 and length 1.

    A constant image gives 0, equally far from all others.
    """
    rows = images.flatten(1)
    return functional.normalize(rows - rows.mean(dim=1, keepdim=True), eps=1e-3)


def _measure_distances(images: Tensor, templates: Tensor, shift_px: int) -> Tensor:
    """Return the smallest distances over flips and shifts, [n, N] in [0, 2].

    Images are [n, S, S], templates [(S - 2 shift)^2, N].
    """
    side = images.shape[1] - 2 * shift_px
    shifts = range(2 * shift_px + 1)
    highest = torch.full((len(images), templates.shape[1]), -1.0)
    product = torch.empty_like(highest)
    for flipped, top, left in itertools.product((images, images.flip(2)), shifts, shifts):
        rows = _standardise(flipped[:, top : top + side, left : left + side])
        torch.maximum(highest, torch.matmul(rows, templates, out=product), out=highest)
    return (2 - 2 * highest).clamp_(min=0).sqrt_()


def _divide_by_next(distances: Tensor, patient_of_column: Tensor) -> Tensor:
    """Return the smallest distance over the mean of the next 50, [n, N] to [n].

    1 if there is no other, or all are 0.
    """
    shape = len(distances), int(patient_of_column.max()) + 1
    patients = torch.full(shape, torch.inf)
    patients.scatter_reduce_(1, patient_of_column.expand(len(distances), -1), distances, "amin")
    count = min(_REFERENCE_PATIENTS + 1, shape[1])
    lowest = patients.topk(count, dim=1, largest=False).values
    reference = lowest[:, 1:].mean(dim=1)  # NaN without another patient
    return torch.where(reference > 0, lowest[:, 0] / reference, 1.0)
