"""The images that a trial trains on, real and extra ones, numbered across their data sources.

A data source is a set of images of one origin: the train side, a block of synthetic images, a
folder of extra images. Image i of a training set has a label or findings, and a place in one of its
sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraytune.base.seeding import numpy_generator
from xraytune.data.findings import levelling_order
from xraytune.data.prepare import ImageSource, RunContext, side_images
from xraytune.space.settings import Experiment
from xraytune.synth.memorisation_gate import refuse_memorised
from xraytune.synth.mix import plan_mix, require_enough
from xraytune.synth.sources.which import source_of


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The data sources of a trial, and which of their images are the real and the extra ones.

    Attributes:
        sources: The first one has the real images; the images of all others have one size.
        targets: Labels, int64 [total], over all sources; or findings, [total, C].
        real: int64 [R], the numbers of the real images.
        extra: int64 [E], the numbers of the extra images; `duplicate` may repeat a number.
    """

    sources: tuple[ImageSource, ...]
    targets: NDArray[np.int64]
    real: NDArray[np.int64]
    extra: NDArray[np.int64]


def build_training_set(experiment: Experiment, context: RunContext) -> TrainingSet:
    """Collect the images of a trial; generators, pool blocks and decoded folders that the cache lacks are built.

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
    real = side_images("train", prepared, context.cache)
    extra_labels = plan_mix(prepared.train_counts, parameters)
    source = source_of(parameters, has_real_extra=experiment.has_real_extra)
    if parameters.has_synthetic_images:
        refuse_memorised(settings, context, source)
    counts = np.bincount(extra_labels, minlength=class_count).tolist()
    sources = (real, *source.images(settings, context, counts))
    targets = np.concatenate([images.targets for images in sources])
    labels = np.concatenate([images.labels for images in sources])
    real_numbers = np.arange(len(real.rows))
    usable = real_numbers if source.repeats_real else np.arange(len(real_numbers), len(labels))
    if source.repeats_real and real.findings is not None and parameters.balance == "equal":
        extra = levelling_order(real.targets, len(extra_labels), settings.seed)
        return TrainingSet(sources=sources, targets=targets, real=real_numbers, extra=extra)
    if not source.repeats_real:
        available = np.bincount(labels[usable], minlength=class_count).tolist()
        require_enough(available, parameters, prepared)
    extra = np.empty(len(extra_labels), dtype=np.int64)
    for label in np.unique(extra_labels).tolist():
        chosen = extra_labels == label
        members = usable[labels[usable] == label]
        if source.is_shuffled:  # other real images in each replicate
            members = numpy_generator(settings.seed, "duplicates", label).permutation(members)
        extra[chosen] = np.resize(members, int(chosen.sum()))
    return TrainingSet(sources=sources, targets=targets, real=real_numbers, extra=extra)
