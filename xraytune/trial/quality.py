"""Quality of synthetic images: how far they are from real ones, in features of a backbone.

The first images of each class's pool are compared with val-A, which no generator has seen. All
images are compared at the resolution of the synthetic ones. The figures of a pool are an artifact,
computed once.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import MachineError
from xraytune.base.files import read_json, write_json
from xraytune.data.image_set import ImageSet
from xraytune.data.images import SideName
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.space.settings import Experiment
from xraytune.space.task_settings import CLASS_TASKS
from xraytune.stats.classification import Floats
from xraytune.synth.generator_quality import (
    ClassQuality,
    PoolReport,
    Quality,
    coverage,
    kernel_inception_distance,
    label_agreement,
    transfer_auroc,
)
from xraytune.synth.memorisation import find_copies, sample_evenly
from xraytune.synth.saved_generator import resize_images
from xraytune.synth.sources.registry import source_of
from xraytune.synth.sources.source import BLOCK, subset
from xraytune.trial.network import TrialNetwork

_STAGE = "quality-1"
_MOST_IMAGES = 2 * BLOCK
_FEWEST_IMAGES = 50
"""At most `_MOST_IMAGES` images of a class are compared. Quality is not measured with fewer than
`_FEWEST_IMAGES` of a class in val-A, in val-B or in the pool."""
_FEWEST_PX = 32
_QUALITY = TypeAdapter(Quality)


def report_pool(experiment: Experiment, context: RunContext) -> PoolReport:
    """Return the quality and memorisation of synthetic images, without refusing any.

    A replicate of a confirmation measures quality only if it trains its own generator: the search
    has already measured all other images.
    """
    quality: Quality | str = "not measured: the search has measured these images"
    if experiment.draw is None or experiment.parameters.trains_generator:
        quality = measure_quality(experiment, context)
    copies, _ = find_copies(experiment, context)
    if isinstance(quality, str):
        return PoolReport(quality=None, note=quality, copies=copies)
    return PoolReport(quality=quality, note="", copies=copies)


def measure_quality(experiment: Experiment, context: RunContext) -> Quality | str:
    """Return the quality of synthetic images, or the reason why it cannot be measured.

    Raises:
        TrialError: The pool cannot be made.
    """
    prepared = context.prepared
    if experiment.parameters.weights == "none":
        return "not measured: the backbone is not pretrained"

    train = _choose_image_set("train", context)
    val_a = _choose_image_set("val_a", context)
    val_b = _choose_image_set("val_b", context)
    pools: list[list[ImageSet]] = []
    for label, name in enumerate(prepared.class_names):
        count = int((val_a.labels == label).sum())
        pool = _read_pool(experiment, context, label, count)
        pools.append(pool)
        in_pool = sum(len(block.rows) for block in pool)
        in_val_b = int((val_b.labels == label).sum())
        for where, number in (("val-A", count), ("val-B", in_val_b), ("the pool", in_pool)):
            if number < _FEWEST_IMAGES:
                few = f"{number} images of {name} in {where}, fewer than {_FEWEST_IMAGES}"
                return f"not measured: {few}"

    frozen = {"settings.task": "classification", "parameters.trainable": "head"}
    try:
        network = TrialNetwork(experiment.with_values(frozen), context)
    except MachineError as error:
        return f"not measured: {error.problems[0].what}"

    # Enlarged files look unlike real ones at the study's size.
    size_px = pools[0][0].pixels.shape[1]
    resolution_px = min(size_px, pools[0][0].file_size_px or size_px, prepared.image_size_px)
    resolution_px = max(_FEWEST_PX, resolution_px)
    inputs = {
        "features": network.identity,
        "threads": context.compute.threads,
        "images": prepared.fingerprint,
        "resolution_px": resolution_px,
        "sides": [images.inputs for images in (train, val_a, val_b)],
        "class_names": list(prepared.class_names),
        "positive": prepared.positive,
        "pools": [[block.inputs, block.targets.tolist()] for pool in pools for block in pool],
        "releases": releases("scikit-learn"),
    }

    def build(folder: Path) -> None:
        sides = (train, val_a, val_b)
        quality = _compute_quality(experiment, prepared, network, sides, pools, resolution_px)
        write_json(folder / "quality.json", _QUALITY.dump_python(quality, mode="json"))

    path = build_once(context.cache, _STAGE, inputs, build)
    return _QUALITY.validate_python(read_json(path / "quality.json"))


def _read_pool(
    experiment: Experiment, context: RunContext, label: int, count: int
) -> list[ImageSet]:
    """Return the first blocks of a class's pool, with at least `count` images if it has as many.

    Blocks are whole: GAN-train uses all of their images, even if the class has few real ones.
    """
    source = source_of(experiment.parameters)
    blocks = [source.block(experiment.settings, context, label, 0)]
    while len(blocks) * BLOCK < count and len(blocks[-1].rows) == BLOCK:
        blocks.append(source.block(experiment.settings, context, label, len(blocks)))
    return blocks


def _compute_quality(
    experiment: Experiment,
    prepared: SplitData,
    network: TrialNetwork,
    sides: Sequence[ImageSet],
    pools: Sequence[Sequence[ImageSet]],
    resolution_px: int,
) -> Quality:
    """Compare the pools of all classes with images of train, val-A and val-B."""
    train, val_a, val_b = sides

    def read_features(*image_sets: ImageSet) -> Floats:
        features = [
            network.plain_features(_downsample(images, resolution_px)) for images in image_sets
        ]
        return np.concatenate(features).astype(np.float64)

    val_a_features = read_features(val_a)
    val_b_features = read_features(val_b)
    pool_features = [read_features(*pool) for pool in pools]
    pool_targets = np.concatenate([block.targets for pool in pools for block in pool])
    labelled_pool = (np.concatenate(pool_features), pool_targets)
    agreement: Sequence[float | None] = [None] * len(pools)
    if experiment.settings.task in CLASS_TASKS:
        labelled_train = (network.plain_features(train).astype(np.float64), train.labels)
        agreement = label_agreement(labelled_train, labelled_pool)

    tested_on = (val_a_features, val_a.targets)
    positive = prepared.positive
    return Quality(
        features=f"{experiment.parameters.backbone} ({Path(str(network.weights)).name})",
        resolution_px=resolution_px,
        classes={
            name: _compare_class(
                val_a_features[val_a.labels == label],
                val_b_features[val_b.labels == label],
                pool_features[label],
                agreement[label],
            )
            for label, name in enumerate(prepared.class_names)
        },
        gan_train=transfer_auroc(labelled_pool, tested_on, positive=positive),
        real_train=transfer_auroc(
            (read_features(train), train.targets), tested_on, positive=positive
        ),
    )


def _compare_class(
    val_a: Floats, val_b: Floats, pool: Floats, agreement: float | None
) -> ClassQuality:
    """Compare the features of a class's pool with those of its real images."""
    count = min(len(val_a), len(pool))  # on which the figures depend
    real_sample = sample_evenly(val_a, count)
    pool_sample = sample_evenly(pool, count)
    return ClassQuality(
        images=count,
        kid=kernel_inception_distance(real_sample, pool_sample),
        floor=kernel_inception_distance(val_a, val_b),
        coverage=coverage(real_sample, pool_sample),
        agreement=agreement,
    )


def _downsample(images: ImageSet, size_px: int) -> ImageSet:
    """Reduce images to a size, in 8 bits like synthetic ones; smaller images are not changed."""
    if images.pixels.shape[1] <= size_px:
        return images
    resized = resize_images(images.read()[:, None], size_px)
    inputs = {**images.inputs, "downsampled_px": size_px}
    return replace(images, pixels=resized[:, 0], rows=np.arange(len(resized)), inputs=inputs)


def _choose_image_set(name: SideName, context: RunContext) -> ImageSet:
    """Return at most `_MOST_IMAGES` images of each class of a side."""
    side = side_image_set(name, context.prepared, context.cache)
    indices = [
        sample_evenly(np.flatnonzero(side.labels == label), _MOST_IMAGES)
        for label in range(len(context.prepared.class_names))
    ]
    return subset(side, np.sort(np.concatenate(indices)))
