"""The gate against copied training images, on real X-rays: how often it is wrong about new ones, and what it finds.

    make bench ONLY=memorisation DATA=chest_xray

Images of new patients stand in for a pool, over many random splits; then altered copies of training
images replace a share of such a pool.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped]

from benchmarks.figures import Figure, figure
from xraytune.base.seeding import numpy_generator
from xraytune.data.prepare import SplitData, prepare, side_image_set
from xraytune.nets.compute import choose_compute, configure_torch
from xraytune.space.load import load_space
from xraytune.synth.memorisation import (
    FALSE_ALARMS,
    compare_with_unseen,
    measure_closeness,
    measure_unseen,
)
from xraytune.synth.saved_generator import resize_images

_SPACE = Path("search_spaces/gan_ratio_cpu.yaml")
_SPLITS = 200
_COPY_SPLITS = 20
_POOL = 256
_SIZE_PX = 64
NEEDS = ("DATA",)

ImageTable = NDArray[np.uint8]


def measure() -> Iterator[Figure]:
    """Yield the shares of false alarms and of pools with copies that are refused."""
    changes = ("source=gan", "points_to_evaluate=[]", "data.train_patients=null")
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        configure_torch(choose_compute(gpus=0, threads=1))
        prepared, _ = prepare(
            load_space(_SPACE, changes, data=Path(os.environ["DATA"])).settings, cache
        )
        classes = [
            _ClassImages.of(label, prepared, cache) for label in range(len(prepared.class_names))
        ]
        for training in (200, 1000):
            for unseen in (20, 100):
                refused = [
                    _refused(classes, training, unseen, split, lambda new, _: new)
                    for split in range(_SPLITS)
                ]
                name = f"memorisation: new patients refused, {training} training images, {unseen} unseen patients"
                yield figure(name, float(np.mean(refused)), "of splits", f"<= {FALSE_ALARMS}")
        for share in (0.05, 0.2, 1.0):
            for name, disguise in _DISGUISES.items():
                found = [
                    _refused(classes, 200, 100, split, _with_copies(share, disguise))
                    for split in range(_COPY_SPLITS)
                ]
                yield figure(
                    f"memorisation: pools with {share:.0%} copies refused, {name}",
                    float(np.mean(found)),
                    "of splits",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClassImages:
    """All images of a class outside the test folder, uint8 [N, 64, 64], and the number of each one's patient, [N]."""

    images: ImageTable
    patients: NDArray[np.intp]

    @classmethod
    def of(cls, label: int, prepared: SplitData, cache: Path) -> _ClassImages:
        chosen = [image for image in prepared.images if image.label == label]
        pixels = side_image_set("train", prepared, cache).pixels[
            np.array([image.row for image in chosen])
        ]
        _, patients = np.unique([image.patient for image in chosen], return_inverse=True)
        return cls(images=resize_images(pixels[:, None], _SIZE_PX)[:, 0], patients=patients)

    def split(self, training: int, unseen: int, seed: int) -> tuple[NDArray[np.intp], ...]:
        """Whole patients at random: about so many training images, so many unseen patients, and a pool of others."""
        order = numpy_generator(seed, "patients").permutation(self.patients.max() + 1)
        counts = np.bincount(self.patients)[order]
        first = int(np.searchsorted(np.cumsum(counts), training)) + 1
        second = first + unseen
        sides = order[:first], order[first:second], order[second:]
        rows = [np.flatnonzero(np.isin(self.patients, side)) for side in sides]
        pool = numpy_generator(seed, "pool").permutation(rows[2])[:_POOL]
        return rows[0], rows[1], pool


def _refused(
    classes: list[_ClassImages],
    training: int,
    unseen: int,
    split: int,
    pool_of: Callable[[ImageTable, ImageTable], ImageTable],
) -> bool:
    """Whether the gate refuses a pool made from new patients' images and training images, in any class."""
    chances = []
    for one in classes:
        train, held_out, new = one.split(training, unseen, split)
        images, patients = one.images[train], [str(number) for number in one.patients[train]]
        pool = measure_closeness(pool_of(one.images[new], images), images, patients).ratio
        others = [str(number) for number in one.patients[held_out]]
        chances.append(
            compare_with_unseen(
                pool, measure_unseen(one.images[held_out], others, images, patients)
            ).chance
        )
    return min(chances) <= FALSE_ALARMS / len(classes)


def _with_copies(
    share: float, disguise: Callable[[ImageTable], ImageTable]
) -> Callable[[ImageTable, ImageTable], ImageTable]:
    def pool_of(new: ImageTable, training: ImageTable) -> ImageTable:
        count = round(share * len(new))
        copies = disguise(training[np.arange(count) % len(training)])
        return np.concatenate([copies, new[count:]])

    return pool_of


def _noisy(images: ImageTable) -> ImageTable:
    noise = numpy_generator(0, "noise").normal(0, 25, images.shape)
    return (images + noise).round().clip(0, 255).astype(np.uint8)


_DISGUISES: dict[str, Callable[[ImageTable], ImageTable]] = {
    "exact": lambda images: images,
    "flipped": lambda images: images[:, :, ::-1],
    "shifted by 3 px": lambda images: np.roll(images, (3, -3), axis=(1, 2)),
    "noise of 25 grey levels": _noisy,
    "blurred by 2 px": lambda images: gaussian_filter(images, (0, 2, 2)),
    "blurred by 4 px": lambda images: gaussian_filter(images, (0, 4, 4)),
}
