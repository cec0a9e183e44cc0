"""Which images a trial trains on, real and extra ones, and which of them a step shows.

An image set has images of one origin: the train side, a block of synthetic images, a folder of
extra images. Each image of a training set has a label or findings, and a place in one of its image
sets. Steps use two seeded streams, one of real and one of extra images. A stream is an endless
sequence of shuffled passes, of which each step takes the next part. So a resumed trial needs no
sampler state, and two arms with one seed see the same real images, in the same views and the same
order.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from xraytune.base.arrays import Float32Array, Int64Array
from xraytune.base.seeding import numpy_generator
from xraytune.data.findings import levelling_order
from xraytune.data.image_set import ImageSet
from xraytune.data.prepare import RunContext, side_image_set
from xraytune.space.settings import Experiment
from xraytune.stats.classification import rarest_findings
from xraytune.synth.memorisation import refuse_memorised
from xraytune.synth.mix import plan_mix, require_enough
from xraytune.synth.sources.registry import source_of
from xraytune.trial.soft_labels import label_images


class TrainingSet(NamedTuple):
    """The image sets of a trial, and which of their images are the real and the extra ones.

    Images are numbered over all image sets.

    Attributes:
        image_sets: The first one has the real images; the images of all others have
            one size.
        targets: Labels, int64 [total], or findings, [total, C], of all images. With
            `labels: donor`, probabilities of classes or findings, float32 [total, C].
        real: Indices of the real images, or of the images shown in their place, int64 [R];
            `imbalance: oversample` repeats some.
        extra: Indices of the extra images, int64 [E]; `duplicate` may repeat an index.
    """

    image_sets: tuple[ImageSet, ...]
    targets: Float32Array | Int64Array
    real: Int64Array
    extra: Int64Array


def build_training_set(experiment: Experiment, context: RunContext) -> TrainingSet:
    """Collect the images of a trial, and build the artifacts that the cache lacks.

    Raises:
        DataError: A folder of extra images is broken, or too small for the ratio.
        TrialError: The generator's loss is not finite, it copies its training images, or too few of
            its masks are plausible.
        ArtifactError: The pixels of `prepared` are not in the cache.
    """
    settings = experiment.settings
    parameters = experiment.parameters
    prepared = context.prepared
    class_count = len(prepared.class_names)
    real = side_image_set("train", prepared, context.cache)
    planned = plan_mix(prepared.train_counts, parameters, experiment.real_pool_size)
    source = source_of(parameters, has_real_extra=experiment.has_real_extra)
    if parameters.has_synthetic_pixels:
        refuse_memorised(experiment, context)
    image_sets: tuple[ImageSet, ...] = (real,)
    if not source.repeats_real:
        counts = np.bincount(planned, minlength=class_count).tolist()
        image_sets += source.image_sets(settings, context, counts)
    targets: Float32Array | Int64Array = np.concatenate([images.targets for images in image_sets])
    if parameters.labels == "donor":
        soft = [label_images(images, experiment, context) for images in image_sets[1:]]
        one_hot = real.targets if real.targets.ndim == 2 else np.eye(class_count)[real.targets]
        targets = np.concatenate([one_hot.astype(np.float32), *soft])
    real_indices = np.arange(len(real.rows))
    if parameters.imbalance == "oversample":
        real_indices = _oversample(real, settings.seed)
    if source.repeats_real and real.targets.ndim == 2 and parameters.balance == "equal":
        extra = levelling_order(real.targets, len(planned), settings.seed)
        return TrainingSet(image_sets, targets, real_indices, extra)
    labels = np.concatenate([images.labels for images in image_sets])
    usable = np.arange(0 if source.repeats_real else len(real.rows), len(labels))
    if not source.repeats_real:
        available = np.bincount(labels[usable], minlength=class_count).tolist()
        require_enough(available, parameters, prepared, experiment.real_pool_size)
    extra = np.empty(len(planned), dtype=np.int64)
    for label in np.unique(planned).tolist():
        is_of_class = planned == label
        members = usable[labels[usable] == label]
        if source.is_shuffled:  # other real images in each replicate
            members = numpy_generator(settings.seed, "duplicates", label).permutation(members)
        extra[is_of_class] = np.resize(members, int(is_of_class.sum()))
    if experiment.control == "synthetic_only":
        return TrainingSet(image_sets, targets, extra, extra[:0])
    return TrainingSet(image_sets, targets, real_indices, extra)


def _oversample(real: ImageSet, seed: int) -> Int64Array:
    """Return the indices of real images, repeated so that each class is shown equally often.

    With findings, the rarest finding of each image counts as its class.
    """
    indices = np.arange(len(real.labels))
    if real.targets.ndim == 1:
        members = [indices[real.labels == label] for label in np.unique(real.labels)]
        most = max(map(len, members))
        return np.concatenate([np.resize(each, most) for each in members])
    _, counts = np.unique(rarest_findings(real.targets == 1), return_counts=True)
    missing = int((counts.max() - counts).sum())
    return np.concatenate([indices, levelling_order(real.targets, missing, seed)])


ShownImages: TypeAlias = tuple[Int64Array, Int64Array]
"""The images of one step: their indices and the view that each one shows, int64 [n] both."""
Stream: TypeAlias = Callable[[int], ShownImages]
"""A function that returns the images of a step, counted from 0."""


def image_stream(
    seed: int, purpose: str, images: Int64Array, *, per_step: int, view_count: int
) -> Stream:
    """Return a stream that takes `per_step` of the images, given as indices, in each step.

    Every pass shows each image once, in one of `view_count` views. A stream without images shows
    nothing. The purpose, "real" or "extra", separates streams of one seed.
    """
    count = len(images)

    @lru_cache(maxsize=2)
    def shuffle_pass(number: int) -> ShownImages:
        generator = numpy_generator(seed, "stream", purpose, number)
        order = generator.permutation(count)
        views = generator.integers(view_count, size=count)
        return images[order], views[order]

    def show(step: int) -> ShownImages:
        if count == 0 or per_step == 0:
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing
        first_pass, skipped = divmod(step * per_step, count)
        last_pass = ((step + 1) * per_step - 1) // count
        passes = [shuffle_pass(number) for number in range(first_pass, last_pass + 1)]
        indices, views = map(np.concatenate, zip(*passes, strict=True))
        part = slice(skipped, skipped + per_step)
        return indices[part], views[part]

    return show
