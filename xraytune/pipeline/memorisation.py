"""Memorisation gate: a trial is refused if its GAN copies training images.

For each class, the first block of the GAN's images and the real images of val-A, which the GAN has not seen, are compared
with the training images; masks are not. The result is an artifact, computed once for each GAN, with pictures of the closest
pairs.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import GanSettings
from xraytune.errors import Problem, TrialError
from xraytune.files import read_json, write_bytes, write_json
from xraytune.generators.grids import image_grid, png_bytes
from xraytune.generators.train import resize_pixels
from xraytune.metrics.memorisation import Closeness, Memorisation, closeness, compare_with_unseen, unseen_closeness
from xraytune.pipeline.artifacts import build_once, fingerprint
from xraytune.pipeline.prepare import Prepared, SideName, training_pixels
from xraytune.pipeline.synthesize import pool_block
from xraytune.records import Compute

QUALITY_STAGE = "quality-1"
FALSE_ALARMS = 0.05
_RECORD = "memorisation.json"
_PAIRS_SHOWN = 12


def refuse_memorised(
    settings: GanSettings, prepared: Prepared, *, compute: Compute, cache: Path, labeller: Path | None = None
) -> None:
    """Refuse a GAN whose images are closer to its training images than unseen X-rays are; `allow_memorised` skips the test.

    New X-rays in place of the GAN's images would be refused in at most 5 % of cases: each of C classes is tested at
    0.05 / C.

    Raises:
        TrialError: Too many images of a class are closer to a training image than unseen X-rays are.
    """
    if settings.allow_memorised:
        return
    found, folder = measure_memorisation(settings, prepared, compute=compute, cache=cache, labeller=labeller)
    counts = ", ".join(
        f"{one.near} of {one.images} images of {name} (chance of that {one.chance:.1g})"
        for name, one in found.items()
        if one.chance <= FALSE_ALARMS / len(found)
    )
    if counts:
        what = (
            f"the GAN copies its training images: {counts} are nearer to a training image than 99 % of unseen X-rays; "
            f"the nearest pairs are shown in {folder.relative_to(cache).as_posix()} of the cache"
        )
        where = f"gan of {settings.steps} steps, {settings.image_size} px, width {settings.width}, seed {settings.seed}"
        fix = "train fewer steps (gan.steps), add real images, or set gan.allow_memorised: true"
        raise TrialError(Problem(what, where, fix))


def measure_memorisation(
    settings: GanSettings, prepared: Prepared, *, compute: Compute, cache: Path, labeller: Path | None = None
) -> tuple[dict[str, Memorisation], Path]:
    """Return the result for each class name, and the artifact, in which `nearest_CLASS.png` shows the closest pairs."""
    blocks = [
        pool_block(settings, label, 0, prepared, compute=compute, cache=cache, labeller=labeller)
        for label in range(len(prepared.class_names))
    ]
    compared = [[one.sha256, one.label, one.patient, one.side] for one in prepared.images if one.side != "val_b"]
    inputs = {
        "pools": [pool_inputs for _, _, pool_inputs in blocks],
        "images": fingerprint("images", {"compared": compared}),
        "pixels": [prepared.image_size_px, settings.image_size],
    }

    def class_images(side_name: SideName, label: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
        """Return images, scaled like the GAN's training images, and their patients."""
        side = prepared.side(side_name)
        chosen = np.flatnonzero(side.labels == label)
        pixels = resize_pixels(training_pixels(prepared, cache)[side.rows[chosen]], settings.image_size)
        return pixels, tuple(side.patients[position] for position in chosen)

    def build(folder: Path) -> None:
        record = {}
        for label, name in enumerate(prepared.class_names):
            synthetic = blocks[label][0]
            train = class_images("train", label)
            of_gan = closeness(synthetic, *train)
            record[name] = asdict(
                compare_with_unseen(of_gan.ratio, unseen_closeness(*class_images("val_a", label), *train))
            )
            write_bytes(folder / f"nearest_{name}.png", _nearest_pairs(synthetic, train[0], of_gan))
        write_json(folder / _RECORD, record)

    path = build_once(cache, QUALITY_STAGE, inputs, build)
    return {name: Memorisation(**values) for name, values in read_json(path / _RECORD).items()}, path


def _nearest_pairs(synthetic: NDArray[np.uint8], training: NDArray[np.uint8], found: Closeness) -> bytes:
    """Return a PNG of the closest synthetic images, each with its nearest training image on the right; closest first."""
    closest = np.argsort(found.ratio, kind="stable")[:_PAIRS_SHOWN]
    pairs = np.stack([synthetic[closest], training[found.nearest[closest]]], axis=1)
    return png_bytes(image_grid(pairs.reshape(-1, *synthetic.shape[1:]), columns=6))
