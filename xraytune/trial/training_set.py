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
from xraytune.synth.sources import blocks_for, folder_images, folder_reader, pool_reader
from xraytune.trial.mix import plan_mix, require_enough


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
    prepared = context.prepared
    real = side_images("train", prepared, context.cache)
    extra_labels = plan_mix(prepared.train_counts, experiment.parameters)
    sources: tuple[ImageSource, ...] = (real,)
    if experiment.has_real_extra:
        sources += (side_images("others", prepared, context.cache),)
    elif experiment.parameters.has_synthetic_images:
        folder = (
            folder_images(experiment, context) if experiment.parameters.source == "folder" else None
        )
        read = folder_reader(folder) if folder else pool_reader(experiment, context)
        refuse_memorised(experiment, context, read)
        if folder:
            require_enough(folder.labels.tolist(), experiment.parameters, prepared)
            sources += (folder,)
        else:
            counts = enumerate(np.bincount(extra_labels).tolist())
            sources += tuple(
                read(label, block) for label, count in counts for block in range(blocks_for(count))
            )
    targets = np.concatenate([source.targets for source in sources])
    real_numbers = np.arange(len(real.rows))
    repeats_real = len(sources) == 1
    seed = experiment.settings.seed
    if repeats_real and real.findings is not None and experiment.parameters.balance == "equal":
        extra = levelling_order(real.targets, len(extra_labels), seed)
        return TrainingSet(sources=sources, targets=targets, real=real_numbers, extra=extra)
    labels = np.concatenate([source.labels for source in sources])
    usable = real_numbers if repeats_real else np.arange(len(real_numbers), len(labels))
    extra = np.empty(len(extra_labels), dtype=np.int64)
    for label in np.unique(extra_labels).tolist():
        chosen = extra_labels == label
        members = usable[labels[usable] == label]
        if repeats_real or experiment.has_real_extra:  # other real images in each replicate
            members = numpy_generator(seed, "duplicates", label).permutation(members)
        count = int(chosen.sum())
        extra[chosen] = np.resize(members, count) if repeats_real else members[:count]
    return TrainingSet(sources=sources, targets=targets, real=real_numbers, extra=extra)
