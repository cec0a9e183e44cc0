"""Images in the views of a user's augmentation (docs/your_augmentation.md).

Each view of an image has a seed of its own, so it depends neither on the other images of its step
nor on the steps before it. A set of n images in V views is a set of n V images, from then on like
any other: a frozen backbone computes the features of each once.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from xraytune.base.arrays import AnyArray, Int64Array, UInt8Array
from xraytune.base.errors import TrialError
from xraytune.base.seeding import numpy_generator
from xraytune.nets.compute import seeded
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.settings import Experiment
from xraytune.synth.saved_generator import resize_images
from xraytune.trial.training_set import TrainingSet

_COMPARED = 8
_one_thread = Lock()
"""Features are computed in several threads, for which a user's code may not be made."""


def augmented(images: TrainingSet, experiment: Experiment, size_px: int) -> TrainingSet:
    """Return the images of a trial in the views of its augmentation, which is an extension.

    The views of an image follow each other. The extension is given images of `size_px`, to which
    smaller ones are enlarged.

    Raises TrialError, also when images are read, if the code fails or ignores its seed.
    """
    parameters = experiment.parameters
    views = parameters.views
    name = parameters.augmentation
    augment = EXTENSIONS.load(name)
    if isinstance(augment, type):
        augment = EXTENSIONS.build(name, parameters.settings_of(name)).augment
    image_sets = []
    for image_set in images.image_sets:
        rows = np.repeat(image_set.rows, views)
        random = numpy_generator(experiment.settings.seed, "augmentation", image_set.name)
        seeds = random.integers(2**31, size=len(rows))
        show = partial(_show, name, augment, seeds, size_px)
        image_sets.append(replace(image_set, rows=rows, show=show))
    once, again = (image_sets[0].read(slice(_COMPARED)) for _ in range(2))
    if not np.array_equal(once, again):
        raise _error(name, "equal seeds give different images", "use the seed it is given")
    targets: Any = np.repeat(images.targets, views, axis=0)
    return TrainingSet((*image_sets,), targets, images.real * views, images.extra * views)


def _show(
    name: str,
    augment: Callable[[UInt8Array, int], object],
    seeds: Int64Array,
    size_px: int,
    pixels: UInt8Array,
    indices: AnyArray | slice,
) -> UInt8Array:
    """Return the views at some indices of a set, uint8 [n, S, S], of their images, [n, s, s]."""
    if pixels.shape[-1] != size_px:
        pixels = resize_images(pixels[:, None], size_px)[:, 0]
    views = np.empty_like(pixels)
    for index, seed in enumerate(seeds[indices].tolist()):
        with _one_thread, EXTENSIONS.calling(name, "augment"), seeded(seed):
            view = np.asarray(augment(pixels[index], seed))
        if view.dtype != np.uint8 or view.shape != views.shape[1:]:
            raise _error(
                name,
                f"augment returned {view.dtype} {[*view.shape]}",
                f"return uint8 {[*views.shape[1:]]}",
            )
        views[index] = view
    return views


def _error(name: str, what: str, fix: str) -> TrialError:
    return TrialError(what, EXTENSIONS.declared[name].place, fix)
