"""The interface of sources of extra images; the base class is a source that adds no images.

A source with synthetic images gives them in blocks of 256 of a class. The training set, the
memorisation gate and the quality figures read the same blocks. Each block is an artifact, so a
larger ratio only adds blocks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from xraytune.base.arrays import Int64Array, UInt8Array
from xraytune.base.artifacts import build_once
from xraytune.base.errors import MachineError
from xraytune.base.files import sha256_of, write_array
from xraytune.base.seeding import numpy_generator
from xraytune.data.findings import levelling_order
from xraytune.data.image_set import ImageSet
from xraytune.data.images import LENDERS, ImageIndex, ImageTable
from xraytune.data.index import LabelledImages, read_labelled
from xraytune.data.pixels import open_masks, open_pixels
from xraytune.data.prepare import RunContext, SplitData, side_image_set
from xraytune.space.data_settings import DataSettings
from xraytune.space.parameters import Balance, Parameters
from xraytune.space.settings import Settings

POOL_STAGE = "pool-1"
BLOCK = 256


@dataclass(frozen=True)
class StudyImages:
    """The images of a study.

    If its data folder is given as `data_index`, extra images of its sealed test patients are
    refused. Folders of extra images, `opened`, are read once.
    """

    data: DataSettings
    prepared: SplitData
    cache: Path
    data_index: ImageIndex | None = None
    opened: dict[Path, LabelledImages] = field(default_factory=dict, compare=False)

    def read_extra(self, folder: Path) -> LabelledImages:
        """Return the images of a folder of extra images; the errors are those of its reader."""
        if folder not in self.opened:
            self.opened[folder] = read_labelled(
                folder, self.prepared.outputs, self.prepared.task, all_parts=True
            )
        return self.opened[folder]

    def count_classes(self, images: ImageTable) -> list[int]:
        """Return the number of images of each class."""
        counts = np.bincount(images.labels, minlength=len(self.prepared.class_names))
        return [int(count) for count in counts]


class Source:
    """The extra images of trials with some parameters.

    Attributes:
        name: The value of `source` in a space.
        settings: The block of this name in the space, if there is one.
        colour: The colour of the source in charts.
        repeats_real: Whether its images are repeated images of the train side.
        is_shuffled: Whether the images are chosen at random, by the seed, and not the first ones.
    """

    settings: Any
    colour = "#8c8c8c"
    repeats_real = False
    is_shuffled = False

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.name = parameters.source
        self.settings = getattr(parameters, self.name, None)

    def seen_images_sha256(self) -> frozenset[str] | None:
        """Return the SHA-256 of the images that the extra images were made from.

        Images of the study are left out. Returns None if the images are not known.

        Raises:
            ArtifactError: A saved generator is damaged.
            DataError: The file that `folder.seen` names, or the provenance file, cannot be read.
        """
        return frozenset()

    def trained(self, settings: Settings, context: RunContext) -> Path:
        """Return the artifact of the generator that the source trains; train it if it is missing.

        Raises TrialError if the training fails.
        """
        raise NotImplementedError

    def block_findings(self, prepared: SplitData, number: int, seed: int) -> Int64Array | None:
        """Return the findings, [256, C], that a block is made for, or None without findings."""
        targets = prepared.side("train").targets
        if targets.ndim == 1:
            return None
        return choose_findings(targets, number, seed, self.parameters.balance)

    def count_available(self, study_images: StudyImages) -> list[int] | None:
        """Return the number of images of each class, or None if the source has no limit."""
        return None

    def block(self, settings: Settings, context: RunContext, label: int, number: int) -> ImageSet:
        """Return a block of a class, counted from 0, with masks if the training images have masks.

        Only the last blocks of a folder have fewer than 256 images.

        Raises:
            DataError: The images cannot be used.
            TrialError: A generator fails, or too few of its masks are plausible.
        """
        raise NotImplementedError

    def image_sets(
        self, settings: Settings, context: RunContext, counts: Sequence[int]
    ) -> tuple[ImageSet, ...]:
        """Return at least `counts` images of each class; the errors are those of `block`."""
        return tuple(
            self.block(settings, context, label, number)
            for label, count in enumerate(counts)
            for number in range(math.ceil(count / BLOCK))
        )

    def store_block(
        self,
        context: RunContext,
        inputs: dict[str, Any],
        make: Callable[[], UInt8Array],
        findings: Int64Array | None = None,
    ) -> ImageSet:
        """Return a block from the cache, or make it first, uint8 [256, C, S, S].

        `inputs` has everything that the block depends on, including `label` and `block`, its number
        within the class. If there is a second channel, it holds the masks.
        """

        def build(folder: Path) -> None:
            channels = make().swapaxes(0, 1)
            for name, channel in zip(("pixels", "masks"), channels, strict=False):
                write_array(folder / f"{name}.npy", channel)

        path = build_once(context.cache, POOL_STAGE, inputs, build)
        label = inputs["label"]
        return ImageSet(
            name=f"{self.name} {label} {inputs['block']}",
            pixels=open_pixels(path),
            rows=np.arange(BLOCK),
            targets=np.full(BLOCK, label) if findings is None else findings,
            inputs={"stage": POOL_STAGE, **inputs},
            masks=open_masks(path),
        )


class Duplicates(Source):
    """`source: duplicate`: real training images once more, the control for more images per step.

    The images are already in the training set.
    """

    colour = "#e69f00"
    repeats_real = True
    is_shuffled = True


class RealImages(Source):
    """Real images of other patients, which `confirm` uses in place of a perfect generator's."""

    is_shuffled = True

    def count_available(self, study_images: StudyImages) -> list[int]:
        """Return the number of images of each class."""
        return study_images.count_classes(study_images.prepared.side(LENDERS))

    def image_sets(
        self, settings: Settings, context: RunContext, counts: Sequence[int]
    ) -> tuple[ImageSet, ...]:
        """Return all these images."""
        return (side_image_set(LENDERS, context.prepared, context.cache),)


def subset(image_set: ImageSet, indices: Int64Array) -> ImageSet:
    """Return some images of a set."""
    rows = image_set.rows[indices]
    return replace(
        image_set,
        rows=rows,
        targets=image_set.targets[indices],
        inputs={**image_set.inputs, "rows": rows.tolist()},
    )


def weights_file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file of weights; raise MachineError if it is missing."""
    if not file.is_file():
        raise MachineError("no such weights file", file, "restore it")
    return sha256_of(file)


def choose_findings(
    targets: Int64Array, number: int, seed: int, balance: Balance = "natural"
) -> Int64Array:
    """Return the findings, [256, C], that a block is made for, from those of N images, [N, C].

    The findings of every image are used once before any are repeated. With `balance: equal`, the
    findings of images with rare findings come first and are repeated, as in `levelling_order`.
    """
    first = number * BLOCK
    end = first + BLOCK
    if balance == "equal":
        order = levelling_order(targets, end, seed)
    else:
        passes = range(end // len(targets) + 1)
        orders = [
            numpy_generator(seed, "findings of a pool", which).permutation(len(targets))
            for which in passes
        ]
        order = np.concatenate(orders)
    return targets[order[first:end]]
