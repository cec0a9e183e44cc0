"""The synthetic images of a trial in blocks of 256 per class, whatever their source: a generator, a folder or an extension.

The training set, the memorisation gate and the quality figures read the same blocks. Each generated
block is an artifact, so a larger ratio only adds blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.artifacts import build_once, releases
from xraytune.base.errors import MachineError, Problem
from xraytune.base.files import write_array
from xraytune.base.seeding import derive_seed, numpy_generator
from xraytune.data.findings import in_order_of, levelling_order
from xraytune.data.pixels import open_masks, open_pixels
from xraytune.data.prepare import ImageSource, Prepared, RunContext, side_images, stored_images
from xraytune.space.settings import SOURCES, Balance, Experiment, GanSettings
from xraytune.synth.checkpoint import load_generator
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.pool import BLOCK, Images, MaskRange, binarise, draw_block, mask_range
from xraytune.synth.saved_generator import NETWORK_FILE, draw_saved, read_generator
from xraytune.synth.synthesize import trained_generator
from xraytune.synth.train import resize_pixels, resize_planes

POOL_STAGE = "pool-1"
ReadBlock: TypeAlias = Callable[[int, int], ImageSource]
"""Returns a block by label and block number. Only the last blocks of a folder have fewer than 256 images."""


def generator_of(experiment: Experiment) -> GanSettings:
    """Return the generator's settings of an experiment that has one."""
    assert experiment.parameters.gan is not None, "an experiment with a generator"
    return experiment.parameters.gan


def pool_reader(experiment: Experiment, context: RunContext) -> ReadBlock:
    """Return the reader of a trial's pool, which builds what the cache lacks. Raises the errors of `build_training_set`."""
    parameters = experiment.parameters
    if parameters.gan is not None:
        return partial(pool_block, parameters.gan, context, balance=parameters.balance)
    if parameters.folder is not None:
        return folder_reader(folder_images(experiment, context))
    if parameters.generator is not None:
        seed = experiment.settings.seed
        folder = parameters.generator.path
        return partial(given_block, folder, context, seed=seed, balance=parameters.balance)
    return partial(extension_block, parameters.source, context, seed=experiment.settings.seed)


def pool_block(
    settings: GanSettings,
    context: RunContext,
    label: int,
    block: int,
    *,
    balance: Balance = "natural",
) -> ImageSource:
    """Return a block of 256 synthetic images of a class at the generator's size, with masks if the training images have any.

    Raises:
        TrialError: Too few masks are plausible.
    """
    prepared = context.prepared
    compute = context.compute
    cache = context.cache
    generator = trained_generator(settings, context)
    inputs = {"generator": generator.name, "label": label, "block": block, "seed": settings.seed}
    findings = block_findings(prepared, block, settings.seed, balance)
    if findings is not None and balance == "equal":
        inputs["balance"] = balance

    def draw() -> Images:
        network = load_generator(generator / NETWORK_FILE).to(compute.device)
        typical = typical_masks(settings, prepared, cache)
        seed = settings.seed
        return draw_block(
            network, label, block, seed=seed, compute=compute, typical=typical, findings=findings
        )

    return _stored_block(context, "gan", "GAN", inputs, draw, findings)


def block_findings(
    prepared: Prepared, block: int, seed: int, balance: Balance
) -> NDArray[np.int64] | None:
    """Return the findings of training images to draw a block for, [256, C]; None with classes or masks."""
    return (
        findings_of_block(prepared.side("train").targets, block, seed, balance)
        if prepared.findings
        else None
    )


def findings_of_block(
    targets: NDArray[np.int64], block: int, seed: int, balance: Balance = "natural"
) -> NDArray[np.int64]:
    """Return the findings, [N, C] to [256, C], that a block is drawn for: each image's once before any is repeated.

    With `balance: equal`, those of images with rare findings come first and are repeated, as in
    `levelling_order`.
    """
    places = range(block * BLOCK, (block + 1) * BLOCK)
    if balance == "equal":
        return targets[levelling_order(targets, places.stop, seed)[places.start :]]
    passes = range(places.start // len(targets), places.stop // len(targets) + 1)
    orders = [
        numpy_generator(seed, "findings of a pool", number).permutation(len(targets))
        for number in passes
    ]
    first = passes.start * len(targets)
    return targets[np.concatenate(orders)[places.start - first : places.stop - first]]


def given_block(
    folder: Path, context: RunContext, label: int, block: int, *, seed: int, balance: Balance
) -> ImageSource:
    """Like `pool_block`, for a generator that was trained before; larger images are reduced to the study's size."""
    prepared = context.prepared
    compute = context.compute
    saved = read_generator(folder)
    name = prepared.class_names[label]
    size_px = prepared.image_size_px
    findings = block_findings(prepared, block, seed, balance)
    learnt = None if findings is None else in_order_of(saved.findings, prepared.findings, findings)
    inputs = {
        "files": saved.generators,
        "compute": [compute.device, compute.threads, compute.precision],
        "releases": releases("torch"),
        **{"size_px": size_px, "class": name, "label": label, "block": block, "seed": seed},
        **({} if learnt is None else {"findings": learnt.tolist()}),
    }

    def draw() -> Images:
        images = draw_saved(folder, saved, name, block, seed=seed, compute=compute, findings=learnt)
        planes = resize_planes(images.pixels, images.masks, min(size_px, saved.settings.image_size))
        return Images(planes[:, 0], planes[:, 1] if prepared.has_masks else None)

    return _stored_block(context, "generator", "GAN", inputs, draw, findings)


def typical_masks(settings: GanSettings, prepared: Prepared, cache: Path) -> MaskRange | None:
    """Return the ranges of the training masks at the generator's size; None without masks."""
    if not prepared.has_masks:
        return None
    masks = side_images("train", prepared, cache).read_masks()
    return mask_range(binarise(resize_pixels(masks, settings.image_size)))


def extension_block(
    source: str, context: RunContext, label: int, block: int, *, seed: int
) -> ImageSource:
    """Like `pool_block`, for another package's source; raise MachineError if it returns anything but such a block."""
    train = side_images("train", context.prepared, context.cache)
    places = np.flatnonzero(train.labels == label)
    of_class = {**train.inputs, "rows": train.rows[places].tolist()}
    inputs = {
        "source": SOURCES.identity(source),
        **of_class,
        "label": label,
        "block": block,
        "seed": seed,
    }

    def draw() -> Images:
        seen = train.read(places)
        own_seed = derive_seed(seed, "source", source, label, block)
        images = np.asarray(SOURCES.load(source)(seen, label=label, block=block, seed=own_seed))
        if images.dtype != np.uint8 or images.shape != (BLOCK, *seen.shape[1:]):
            what = f"source {source} returned {images.dtype} {list(images.shape)} for images of {list(seen.shape[1:])}"
            raise MachineError(
                Problem(
                    what, fix=f"fix its package: it must return {BLOCK} uint8 images of that size"
                )
            )
        return Images(images, None)

    return _stored_block(context, source, source, inputs, draw)


def _stored_block(
    context: RunContext,
    source: str,
    noun: str,
    inputs: dict[str, Any],
    draw: Callable[[], Images],
    findings: NDArray[np.int64] | None = None,
) -> ImageSource:
    waits_for = f"waiting for {noun} images, which another process draws"

    def build(folder: Path) -> None:
        for name, planes in draw()._asdict().items():
            if planes is not None:
                write_array(folder / f"{name}.npy", planes)

    path = build_once(
        context.cache,
        POOL_STAGE,
        inputs,
        build,
        waiting=lambda: context.on_progress(waits_for, 0, BLOCK),
    )
    label = inputs["label"]
    block = inputs["block"]
    return ImageSource(
        name=f"{source} {label} {block}",
        pixels=open_pixels(path),
        rows=np.arange(BLOCK),
        labels=np.full(BLOCK, label),
        inputs={"stage": POOL_STAGE, **inputs},
        title=f"{noun} images",
        masks=open_masks(path),
        findings=findings,
    )


def folder_images(experiment: Experiment, context: RunContext) -> ImageSource:
    """Return the images of `source: folder`, see `store_folder`."""
    parameters = experiment.parameters
    prepared = context.prepared
    assert parameters.folder is not None, "source: folder has a path"
    images, store = store_folder(
        parameters.folder.path, prepared, experiment.settings.data, cache=context.cache
    )
    return stored_images(store, images, name="folder", title="images of the extra folder")


def folder_reader(images: ImageSource) -> ReadBlock:
    """Return the reader of a folder of extra images."""

    def of_folder(label: int, block: int) -> ImageSource:
        places = np.flatnonzero(images.labels == label)[block * BLOCK : (block + 1) * BLOCK]
        inputs = {**images.inputs, "rows": places.tolist()}
        findings = None if images.findings is None else images.findings[places]
        return replace(
            images,
            rows=images.rows[places],
            labels=images.labels[places],
            inputs=inputs,
            findings=findings,
        )

    return of_folder


def blocks_for(count: int) -> int:
    """Return the number of pool blocks that hold `count` images of a class."""
    return -(-count // BLOCK)


def first_images(
    read: ReadBlock, label: int, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[dict[str, Any]]]:
    """Return the images of a class in the blocks that hold `count`, or in a folder; their targets; the blocks' inputs."""
    blocks: list[ImageSource] = []
    while len(blocks) < blocks_for(count) and all(len(block.rows) == BLOCK for block in blocks):
        blocks.append(read(label, len(blocks)))
    targets = np.concatenate([block.targets for block in blocks])
    return (
        np.concatenate([block.read() for block in blocks]),
        targets,
        [block.inputs for block in blocks],
    )
