"""What xraytune asks of a source of extra images, with the answers of one that adds none.

A source with synthetic images gives them in blocks of 256 of a class. The training set, the
memorisation gate and the quality figures read the same blocks; each is an artifact, so a larger
ratio only adds blocks. Nothing here imports torch, since `status` asks sources for their labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xraytune.base.artifacts import build_once
from xraytune.base.errors import MachineError, Problem
from xraytune.base.files import sha256_of, write_array
from xraytune.base.seeding import numpy_generator
from xraytune.data.findings import levelling_order
from xraytune.data.images import ImageIndex
from xraytune.data.pixels import open_masks, open_pixels
from xraytune.data.prepare import ImageSource, Prepared, RunContext
from xraytune.space.settings import Balance, Parameters, Settings

POOL_STAGE = "pool-1"
BLOCK = 256
ReadBlock: TypeAlias = Callable[[int, int], ImageSource]
"""Returns a block by label and number. Only the last blocks of a folder are smaller than 256."""


class Images(NamedTuple):
    """Images, uint8 [n, S, S], and their masks, of 0 and 255, like them; None without masks."""

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8] | None = None


class Source:
    """The extra images of trials with some parameters.

    Attributes:
        name: The value of `source` in a space; its settings are the block of that name.
        colour: In charts.
        noun: What progress calls its images.
        remedy: What to do about images that copy training images.
        repeats_real: Whether its images are those of the train side, repeated.
        is_shuffled: Whether another seed chooses others of its images, not the first ones.
    """

    name: str = "none"
    colour: ClassVar[str] = "#8c8c8c"
    noun: str = ""
    remedy: ClassVar[str] = "replace the images"
    repeats_real: ClassVar[bool] = False
    is_shuffled: ClassVar[bool] = False

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters

    @property
    def details(self) -> str:
        """What the label of a mix adds to source and ratio, such as `(500 steps)`."""
        return ""

    @property
    def place(self) -> str:
        """What an error about the images names."""
        return f"source: {self.name}"

    def seen_images(self) -> frozenset[str] | None:
        """Return the SHA-256 of the images that these were made from, besides those of the study.

        None if they are not known.

        Raises:
            ArtifactError: A saved generator is damaged.
            DataError: What `folder.seen` says, or the provenance file there, cannot be read.
        """
        return frozenset()

    @classmethod
    def read_input(
        cls,
        setting: str,
        path: Path,
        settings: Settings,
        prepared: Prepared,
        cache: Path,
        index: ImageIndex | None,
    ) -> str | None:
        """Return the content of a path in the source's settings, which must stay the same.

        None if the split depends on it already. If the study's data folder is given as `index`,
        images of its sealed test patients are refused.

        Raises:
            ArtifactError: A saved generator is damaged.
            DataError: It cannot be used for the study's images.
            MachineError: A file is missing.
        """
        raise NotImplementedError

    def count_available(
        self, settings: Settings, prepared: Prepared, cache: Path
    ) -> list[int] | None:
        """Return the number of images of each class; None if there are as many as needed."""
        return None

    def train(self, context: RunContext) -> None:
        """Train what makes the images, unless the cache has it."""

    def block(
        self, settings: Settings, context: RunContext, label: int, number: int
    ) -> ImageSource:
        """Return a block of a class, counted from 0; with masks if the training images have any.

        Raises:
            DataError: The images cannot be used.
            MachineError: An extension returns anything but such a block.
            TrialError: The loss of a generator is not finite, or too few masks are plausible.
        """
        raise NotImplementedError

    def images(
        self, settings: Settings, context: RunContext, counts: Sequence[int]
    ) -> tuple[ImageSource, ...]:
        """Return at least `counts` images of each class. Errors are those of `block`."""
        return tuple(
            self.block(settings, context, label, number)
            for label, count in enumerate(counts)
            for number in range(blocks_for(count))
        )

    def store_block(
        self,
        context: RunContext,
        inputs: dict[str, Any],
        draw: Callable[[], Images],
        findings: NDArray[np.int64] | None = None,
    ) -> ImageSource:
        """Return a block from the cache, or draw it; `inputs` are all that it depends on."""
        waits_for = f"waiting for {self.noun} images, which another process draws"

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
        return ImageSource(
            name=f"{self.name} {label} {inputs['block']}",
            pixels=open_pixels(path),
            rows=np.arange(BLOCK),
            labels=np.full(BLOCK, label),
            inputs={"stage": POOL_STAGE, **inputs},
            title=f"{self.noun} images",
            masks=open_masks(path),
            findings=findings,
        )


def file_content(file: Path) -> str:
    """Return the SHA-256 of a file of weights; raise MachineError if it is missing."""
    if not file.is_file():
        raise MachineError(Problem("no such weights file", file, "restore it"))
    return sha256_of(file)


def blocks_for(count: int) -> int:
    """Return the number of blocks that hold `count` images of a class."""
    return -(-count // BLOCK)


def choose_block_findings(
    prepared: Prepared, number: int, seed: int, balance: Balance
) -> NDArray[np.int64] | None:
    """Return the findings to draw a block for, [256, C]; None with classes or masks."""
    if not prepared.findings:
        return None
    return choose_findings(prepared.side("train").targets, number, seed, balance)


def choose_findings(
    targets: NDArray[np.int64], number: int, seed: int, balance: Balance = "natural"
) -> NDArray[np.int64]:
    """Return the findings, [N, C] to [256, C], that a block is drawn for.

    Each image's come once before any is repeated. With `balance: equal`, those of images with rare
    findings come first and are repeated, as in `levelling_order`.
    """
    first = number * BLOCK
    end = first + BLOCK
    if balance == "equal":
        return targets[levelling_order(targets, end, seed)[first:]]
    count = len(targets)
    passes = range(first // count, end // count + 1)
    orders = [
        numpy_generator(seed, "findings of a pool", which).permutation(count) for which in passes
    ]
    skipped = passes.start * count
    return targets[np.concatenate(orders)[first - skipped : end - skipped]]
