"""Read a trial's synthetic images in blocks per class, whatever their source: a generator, a folder or an extension.

The training set, the memorisation gate and the quality figures read the same blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import Experiment, GeneratorSettings
from xraytune.data.index import ImageFile
from xraytune.data.pixels import open_masks, open_pixels
from xraytune.generators.pool import BLOCK
from xraytune.pipeline.context import RunContext
from xraytune.pipeline.extra_folder import require_enough, store_folder
from xraytune.pipeline.labeller import trained_labeller
from xraytune.pipeline.prepare import pixels_inputs
from xraytune.pipeline.synthesize import (
    Block,
    blocks_for,
    extension_block,
    network_labels,
    pool_block,
    trained_generator,
)

ReadBlock: TypeAlias = Callable[[int, int], Block]
"""Returns a block by label and block number. Only the last blocks of a folder have fewer than 256 images."""


def train_networks(experiment: Experiment, context: RunContext) -> None:
    """Train what an experiment's generated images need and the cache lacks: the generator, and the segmenter of the masks.

    Raises:
        TrialError: A loss is not finite.
    """
    settings = generator_of(experiment)
    for label in network_labels(settings, context.prepared):
        trained_generator(settings, label, context)
    trained_labeller(experiment, context)


def generator_of(experiment: Experiment) -> GeneratorSettings:
    """Return the generator's settings of an experiment that has one."""
    assert experiment.parameters.generator is not None, "an experiment with a generator"
    return experiment.parameters.generator


def pool_reader(experiment: Experiment, context: RunContext) -> ReadBlock:
    """Return the reader of a trial's pool, which builds what the cache lacks. Raises the errors of `build_training_set`."""
    parameters = experiment.parameters
    if parameters.generator is not None:
        labeller = trained_labeller(experiment, context)
        return partial(pool_block, parameters.generator, context, labeller=labeller, pool_filter=parameters.pool_filter)
    if parameters.folder is None:
        return partial(extension_block, parameters.source, context, seed=experiment.settings.seed)
    return folder_reader(*folder_images(experiment, context))


def folder_images(experiment: Experiment, context: RunContext) -> tuple[tuple[ImageFile, ...], Path]:
    """Return what `store_folder` does for an experiment with `source: folder`; raise if there are too few images."""
    parameters, prepared = experiment.parameters, context.prepared
    assert parameters.folder is not None, "source: folder has a path"
    images, store = store_folder(parameters.folder.path, prepared, experiment.settings.data, cache=context.cache)
    require_enough(images, parameters, prepared)
    return images, store


def folder_reader(images: Sequence[ImageFile], store: Path) -> ReadBlock:
    """Return the reader of a folder of extra images, given in the order of their pixel store."""
    pixels, masks = open_pixels(store), open_masks(store)
    labels = np.array([image.label for image in images], dtype=np.int64)

    def of_folder(label: int, block: int) -> Block:
        rows = np.flatnonzero(labels == label)[block * BLOCK : (block + 1) * BLOCK]
        inputs = {**pixels_inputs(store), "rows": rows.tolist()}
        return pixels[rows], None if masks is None else masks[rows], inputs

    return of_folder


def first_images(read: ReadBlock, label: int, count: int) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Return the first `count` images of a class, or all if a folder has fewer, and the inputs of their blocks."""
    blocks: list[NDArray[np.uint8]] = []
    inputs = []
    for block in range(blocks_for(count)):
        pixels, _, of_block = read(label, block)
        blocks.append(pixels)
        inputs.append(of_block)
        if len(pixels) < BLOCK:
            break
    return np.concatenate(blocks)[:count], inputs
