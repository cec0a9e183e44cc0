"""Test whether a generator memorised training images, by comparing its images with unseen X-rays.

An image's *closeness* is its distance to the nearest training patient divided by the mean distance
to the next 50: near 1 for an image that is no closer to one patient than to others, near 0 for a
copy. The plain distance does not work, since GAN images are blurred and a blurred image is closer
to everything. Neither weights nor random numbers are needed.

A trial is refused if its synthetic images copy training images. For each class, 256 random images
of its pool and the real images of val-A, which no generator has seen, are compared with the
training images; masks are not. The result is an artifact, computed once for each pool, with
pictures of the closest pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xraytune.base.arrays import Float64Array, Int64Array, UInt8Array
from xraytune.base.artifacts import build_once, fingerprint
from xraytune.base.errors import TrialError
from xraytune.base.files import read_json, write_json
from xraytune.base.records import frozen
from xraytune.base.seeding import numpy_generator
from xraytune.data.image_set import ImageSet
from xraytune.data.images import SideName
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.space.settings import Experiment
from xraytune.synth.grids import image_grid
from xraytune.synth.mix import mix_label, plan_mix
from xraytune.synth.saved_generator import resize_images
from xraytune.synth.sources.registry import source_of
from xraytune.synth.sources.source import BLOCK, subset

MEMORISATION_STAGE = "memorisation-1"
FALSE_ALARMS = 0.05
_RECORD = "memorisation.json"
_PAIRS_SHOWN = 12
_SIDE_PX = 32
_SCALES = ((_SIDE_PX, 2), (16, 1))
"""The side of the compared images, and the largest shift, in pixels."""
_BLURS_PX = (1.0, 2.0)
"""Standard deviations of the blurs applied to unseen images, at 32 px."""
_REFERENCE_PATIENTS = 50
_MOST_UNSEEN = 500
_QUANTILE = 0.01
_IMAGES_AT_ONCE = 256


class Closeness(NamedTuple):
    """How close Q images are to the training images.

    `ratio` is the closeness of each image, in [0, 1], and `nearest` the index of the training image
    nearest to it.
    """

    ratio: Float64Array
    nearest: Int64Array


@frozen
class Memorisation:
    """The numbers of synthetic images and of unseen patients, and the result of comparing them.

    Attributes:
        threshold: The unseen patients' 1 % quantile of closeness, or their minimum if there are
            fewer than 199 unseen patients.
        near: Number of synthetic images below the threshold.
        chance: P-value: the probability of at least this many images below the threshold if the
            synthetic images were real images of other patients.
    """

    images: int
    unseen: int
    threshold: float
    near: int
    chance: float


def measure_unseen(
    images: UInt8Array,
    patients: Sequence[str],
    training: UInt8Array,
    training_patients: Sequence[str],
) -> Float64Array:
    """Return the closeness of a real image of each unseen patient, float64 [n].

    Unseen patients are those that the generator was not trained on.

    The closeness of a patient is the smallest of three: of the image itself, and of the image
    blurred by 1 and by 2 px at 32 px, so blur alone never makes a synthetic image closer than
    unseen ones. Only the first image of a patient is used, since further ones are not independent,
    and at most 500 patients, evenly spaced.

    `images` are uint8 [N, h, w], at the size and sharpness of the training images; the other
    arguments are those of `measure_closeness`.
    """
    _, firsts = np.unique(patients, return_index=True)
    sharp = _resize(images[sample_evenly(firsts, _MOST_UNSEEN)], _SIDE_PX)
    coordinates = torch.arange(_SIDE_PX, dtype=sharp.dtype)
    squares = (coordinates[:, None] - coordinates) ** 2
    versions = [sharp]
    for sigma_px in _BLURS_PX:
        weights = torch.softmax(-squares / (2 * sigma_px**2), dim=1)  # sum to 1 at the edges too
        versions.append(weights @ sharp @ weights.T)
    ratios = [measure_closeness(version, training, training_patients).ratio for version in versions]
    return np.asarray(np.min(ratios, axis=0))


def compare_with_unseen(synthetic: Float64Array, unseen: Float64Array) -> Memorisation:
    """Count the synthetic images below the unseen patients' 1 % quantile, and add the p-value.

    `synthetic` is the `Closeness.ratio` of the generator's images, [m], and `unseen` is the result
    of `measure_unseen`, [n]; m and n are at least 1.
    """
    from scipy.stats import betabinom  # type: ignore[import-untyped]  # takes half a second

    # The threshold is itself an observation, so the count is not binomial. It is at least `near`
    # exactly if fewer than `rank` of the smallest `near + rank - 1` of all values are unseen ones.
    # From: Epstein 1954, "Tables for the Distribution of the Number of Exceedances".
    rank = max(1, int(_QUANTILE * (len(unseen) + 1)))
    threshold = float(np.sort(unseen)[rank - 1])
    near = int((synthetic < threshold).sum())
    counts = np.arange(near, len(synthetic) + 1)
    chances = betabinom.pmf(counts, len(synthetic), rank, len(unseen) + 1 - rank)
    return Memorisation(
        images=len(synthetic),
        unseen=len(unseen),
        threshold=threshold,
        near=near,
        chance=float(chances.sum()),
    )


def _resize(images: UInt8Array | Tensor, side_px: int) -> Tensor:
    """Resize images [n, h, w] to float32 [n, S, S]."""
    pixels = images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))
    size = (side_px, side_px)
    return functional.interpolate(
        pixels.float()[:, None], size=size, mode="bilinear", antialias=True
    )[:, 0]


def measure_closeness(
    images: UInt8Array | Tensor,
    training: UInt8Array,
    training_patients: Sequence[str],
) -> Closeness:
    """Return how much closer each image is to one training patient than to the next 50.

    Images are centred and scaled to length 1, which removes brightness and contrast. The distance
    is the smallest over a flip and shifts of up to a sixteenth of the side. The ratio is the
    smaller one of two scales, 32 px and 16 px; at the latter noise does not hide a copy. A
    patient's distance is that of their nearest image, so that two images of one patient do not hide
    a copy of either. With a single patient the ratio is 1.

    `images` are uint8 [Q, h, w], or float32 [Q, 32, 32], `training` uint8 [N, h, w], at the size
    and sharpness of the generator's training; N is at least 1.

    From: Carlini et al. 2023, "Extracting Training Data from Diffusion Models": their distance
    for CIFAR-10, relative to the mean over the 50 nearest images; here over patients, without the
    nearest.
    """
    small_images = _resize(images, _SIDE_PX)
    small_training = _resize(training, _SIDE_PX)
    names, columns = np.unique(training_patients, return_inverse=True)
    owners = torch.from_numpy(columns)
    ratios = []
    nearest = []
    for side_px, shift_px in _SCALES:
        inner = slice(shift_px, side_px - shift_px)
        templates = _standardise(_resize(small_training, side_px)[:, inner, inner]).T.contiguous()
        for scaled in torch.split(_resize(small_images, side_px), _IMAGES_AT_ONCE):
            # The smallest distances over flips and shifts, [n, N] in [0, 2].
            highest = torch.full((len(scaled), templates.shape[1]), -1.0)
            shifts = range(2 * shift_px + 1)
            side = side_px - 2 * shift_px
            for turned, top, left in product((scaled, scaled.flip(2)), shifts, shifts):
                rows = _standardise(turned[:, top : top + side, left : left + side])
                torch.maximum(highest, rows @ templates, out=highest)
            distances = (2 - 2 * highest).clamp_(min=0).sqrt_()

            by_patient = torch.full((len(distances), len(names)), torch.inf)
            by_patient.scatter_reduce_(1, owners.expand_as(distances), distances, "amin")
            count = min(_REFERENCE_PATIENTS + 1, len(names))
            lowest = by_patient.topk(count, dim=1, largest=False).values
            reference = lowest[:, 1:].mean(dim=1)  # NaN without another patient
            ratios.append(torch.where(reference > 0, lowest[:, 0] / reference, 1.0))
            nearest.append(distances.argmin(dim=1))
    ratio, scale = torch.cat(ratios).view(len(_SCALES), -1).min(dim=0)
    nearest_at_scale = torch.cat(nearest).view(len(_SCALES), -1).gather(0, scale[None])[0]
    return Closeness(ratio=ratio.double().numpy(), nearest=nearest_at_scale.numpy())


def _standardise(images: Tensor) -> Tensor:
    """Return images [n, h, w] as rows of mean 0 and length 1.

    A constant image gives 0, equally far from all others.
    """
    rows = images.flatten(1)
    return functional.normalize(rows - rows.mean(dim=1, keepdim=True), eps=1e-3)


def sample_evenly(values: NDArray[Any], count: int) -> NDArray[Any]:
    """Return `count` evenly spaced values, or all if there are fewer.

    Values are spaced because adjacent images often share a patient.
    """
    positions = np.linspace(0, len(values) - 1, min(count, len(values)))
    return values[positions.round().astype(np.int64)]


def refuse_memorised(experiment: Experiment, context: RunContext) -> None:
    """Refuse a pool that is closer to the training images than unseen X-rays are.

    `quality.allow_memorised` skips the test.

    New X-rays in place of the synthetic images would be refused (TrialError) in at most 5 % of
    cases: each of C classes is tested at 0.05 / C.
    """
    if experiment.settings.quality.allow_memorised:
        return
    copies, folder = find_copies(experiment, context)
    if copies:
        raise TrialError(
            f"synthetic images are copies of training images: {copies} are nearer to a training "
            "image than 99 % of unseen X-rays; the nearest pairs are shown in "
            f"{folder.relative_to(context.cache).as_posix()} of the cache",
            mix_label(experiment.parameters),
            "use other images (of a GAN: fewer gan.steps, more real images), or set "
            "quality.allow_memorised: true",
        )


def sample_pool(experiment: Experiment, context: RunContext) -> dict[int, list[ImageSet]]:
    """Return about 256 random images of each class, equally many of each block that a trial uses.

    With several blocks, a generator may copy in some of them only. As many images as one block has
    keep the cost and the error rates of the test for any number of blocks. The sample depends on
    the blocks alone, so that trials with the same blocks share it. Each `ImageSet` has those of a
    block; a class without images is left out.
    """
    source = source_of(experiment.parameters)
    planned = plan_mix(context.prepared.train_counts, experiment.parameters)
    pool: dict[int, list[ImageSet]] = {}
    for label in range(len(context.prepared.class_names)):
        block_count = max(1, math.ceil(int((planned == label).sum()) / BLOCK))
        count = math.ceil(BLOCK / block_count)
        order = numpy_generator(0, "compared images", label).permutation(BLOCK)
        for number in range(block_count):
            block = source.block(experiment.settings, context, label, number)
            indices = order[order < len(block.rows)][:count]  # the last one of a folder is smaller
            if len(indices):
                pool.setdefault(label, []).append(subset(block, np.sort(indices)))
    return pool


def read_class(
    sides: Sequence[SideName], label: int, context: RunContext, size_px: int
) -> tuple[UInt8Array, list[str]]:
    """Return the real images of a class on some sides, uint8 [n, S, S], and their patients."""
    pixels = []
    patients = []
    for name in sides:
        side = side_image_set(name, context.prepared, context.cache)
        indices = np.flatnonzero(side.labels == label)
        side_patients = context.prepared.side(name).patients
        pixels.append(side.read(indices))
        patients += [side_patients[index] for index in indices]
    return resize_images(np.concatenate(pixels)[:, None], size_px)[:, 0], patients


def find_copies(experiment: Experiment, context: RunContext) -> tuple[str, Path]:
    """Return a text on the images of each class that copy training images, and the artifact.

    The text is "" if no class has more such images than chance explains. In the artifact,
    `memorisation.json` has the `Memorisation` of each class with synthetic images, and
    `nearest_CLASS.png` shows the closest pairs.
    """
    prepared = context.prepared
    pool = sample_pool(experiment, context)
    samples = [sample for label in pool for sample in pool[label]]
    size_px = samples[0].pixels.shape[1]
    compared = [
        [image.sha256, image.label, image.patient, image.side]
        for image in prepared.images
        if image.side in ("train", "val_a")
    ]
    inputs = {
        "pools": [sample.inputs for sample in samples],
        "images": fingerprint("images", {"compared": compared}),
        "pixels": [prepared.pixels, prepared.image_size_px, size_px],
    }

    def build(folder: Path) -> None:
        record = {}
        for label, class_samples in pool.items():
            name = prepared.class_names[label]
            synthetic = np.concatenate([sample.read() for sample in class_samples])
            train = read_class(["train"], label, context, size_px)
            train_closeness = measure_closeness(synthetic, *train)
            unseen_ratios = measure_unseen(*read_class(["val_a"], label, context, size_px), *train)
            record[name] = asdict(compare_with_unseen(train_closeness.ratio, unseen_ratios))
            closest = np.argsort(train_closeness.ratio, kind="stable")[:_PAIRS_SHOWN]
            nearest = train[0][train_closeness.nearest[closest]]
            pairs = np.stack([synthetic[closest], nearest], axis=1)
            sheet = image_grid(pairs.reshape(-1, size_px, size_px), columns=6)
            sheet.save(folder / f"nearest_{name}.png")
        write_json(folder / _RECORD, record)

    path = build_once(context.cache, MEMORISATION_STAGE, inputs, build)
    rows = read_json(path / _RECORD)
    reasons = []
    for name, pool in rows.items():
        if pool["chance"] <= FALSE_ALARMS / len(rows):
            class_text = f" of {name}" if len(rows) > 1 else ""
            chance = f"(chance of that {pool['chance']:.1g})"
            reasons.append(f"{pool['near']} of {pool['images']} images{class_text} {chance}")
    return ", ".join(reasons), path
