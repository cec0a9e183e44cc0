"""Memorisation gate: a trial is refused if its synthetic images copy training images.

For each class, the first block of its pool and the real images of val-A, which no generator has
seen, are compared with the training images; masks are not. The result is an artifact, computed once
for each pool, with pictures of the closest pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.base.artifacts import build_once, fingerprint
from xraytune.base.errors import Problem, TrialError
from xraytune.base.files import read_json, write_bytes, write_json
from xraytune.data.images import SideName
from xraytune.data.prepare import RunContext, side_images
from xraytune.space.settings import Settings
from xraytune.synth.grids import image_grid, png_bytes
from xraytune.synth.memorisation import (
    Closeness,
    Memorisation,
    compare_with_unseen,
    measure_closeness,
    measure_unseen,
)
from xraytune.synth.sources.source import ReadBlock, Source
from xraytune.synth.train import resize_pixels

MEMORISATION_STAGE = "memorisation-1"
FALSE_ALARMS = 0.05
_RECORD = "memorisation.json"
_PAIRS_SHOWN = 12


def refuse_memorised(settings: Settings, context: RunContext, source: Source) -> None:
    """Refuse a pool that is closer to the training images than unseen X-rays are.

    `quality.allow_memorised` skips the test.

    New X-rays in place of the synthetic images would be refused (TrialError) in at most 5 % of
    cases: each of C classes is tested at 0.05 / C.
    """
    if settings.quality.allow_memorised:
        return
    by_class, folder = measure_memorisation(context, partial(source.block, settings, context))
    copies = describe_copies(by_class)
    if copies:
        what = (
            f"synthetic images are copies of training images: {copies} are nearer to a training image "
            "than 99 % of unseen X-rays; the nearest pairs are shown in "
            f"{folder.relative_to(context.cache).as_posix()} of the cache"
        )
        fix = f"{source.remedy}, or set quality.allow_memorised: true"
        raise TrialError(Problem(what, source.place, fix))


def describe_copies(by_class: Mapping[str, Memorisation]) -> str:
    """Return the classes with images that copy training images, as text; "" if there are none."""
    found = []
    for name, pool in by_class.items():
        if pool.chance <= FALSE_ALARMS / len(by_class):
            images = f"images of {name}" if len(by_class) > 1 else "images"
            found.append(
                f"{pool.near} of {pool.images} {images} (chance of that {pool.chance:.1g})"
            )
    return ", ".join(found)


def measure_memorisation(
    context: RunContext, read: ReadBlock
) -> tuple[dict[str, Memorisation], Path]:
    """Return the result for each class of a pool, and the artifact.

    There, `nearest_CLASS.png` shows the closest pairs.

    Classes without synthetic images are left out.
    """
    prepared = context.prepared
    cache = context.cache
    blocks = {name: read(label, 0) for label, name in enumerate(prepared.class_names)}
    blocks = {name: block for name, block in blocks.items() if len(block.rows)}
    size_px = next(iter(blocks.values())).pixels.shape[1]
    compared = [
        [image.sha256, image.label, image.patient, image.side]
        for image in prepared.images
        if image.side in ("train", "val_a")
    ]
    inputs = {
        "pools": [block.inputs for block in blocks.values()],
        "images": fingerprint("images", {"compared": compared}),
        "pixels": [prepared.pixels, prepared.image_size_px, size_px],
    }

    def build(folder: Path) -> None:
        record = {}
        for name, block in blocks.items():
            label = prepared.class_names.index(name)
            synthetic = block.read()
            train, _, patients = class_images(("train",), label, size_px, context)
            unseen, _, others = class_images(("val_a",), label, size_px, context)
            to_train = measure_closeness(synthetic, train, patients)
            to_unseen = measure_unseen(unseen, others, train, patients)
            record[name] = asdict(compare_with_unseen(to_train.ratio, to_unseen))
            write_bytes(folder / f"nearest_{name}.png", _nearest_pairs(synthetic, train, to_train))
        write_json(folder / _RECORD, record)

    waits_for = "waiting for the search for copies, which another process does"
    path = build_once(
        cache,
        MEMORISATION_STAGE,
        inputs,
        build,
        waiting=lambda: context.on_progress(waits_for, 0, len(blocks)),
    )
    return {
        name: Memorisation(**values) for name, values in read_json(path / _RECORD).items()
    }, path


def class_images(
    sides: Sequence[SideName], label: int, size_px: int, context: RunContext
) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Return the real images of a class on some sides, uint8 [n, S, S].

    With their labels or findings, and their patients.
    """
    images: list[NDArray[np.uint8]] = []
    targets: list[NDArray[np.int64]] = []
    patients: list[str] = []
    for name in sides:
        side = side_images(name, context.prepared, context.cache)
        owners = context.prepared.side(name).patients
        chosen = np.flatnonzero(side.labels == label)
        images.append(resize_pixels(side.read(chosen), size_px))
        targets.append(side.targets[chosen])
        patients += [owners[place] for place in chosen]
    return np.concatenate(images), np.concatenate(targets), tuple(patients)


def _nearest_pairs(
    synthetic: NDArray[np.uint8], training: NDArray[np.uint8], to_train: Closeness
) -> bytes:
    """Return a PNG of the closest synthetic images, each beside its nearest training image."""
    closest = np.argsort(to_train.ratio, kind="stable")[:_PAIRS_SHOWN]
    pairs = np.stack([synthetic[closest], training[to_train.nearest[closest]]], axis=1)
    return png_bytes(image_grid(pairs.reshape(-1, *synthetic.shape[1:]), columns=6))
