"""The gate between a GAN's pool and a trial: a GAN that copies its training images is refused.

The first block of every class's pool is compared with the training images of that class, and so are val-A's real images,
which the GAN has not seen. The outcome is an artifact, made once for a GAN and shared by all trials that use it; beside it
lie pictures of the nearest pairs, for a person to look at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraytune.config.settings import GanSettings
from xraytune.errors import Problem, TrialError
from xraytune.files import read_json, write_bytes, write_json
from xraytune.gan.pool import draw_grid, png_bytes
from xraytune.gan.train import scale_pixels
from xraytune.metrics.memorisation import Closeness, Memorisation, closeness, compare_with_unseen, unseen_closeness
from xraytune.pipeline.artifacts import build_once, fingerprint
from xraytune.pipeline.prepare import Prepared, SideName, training_pixels
from xraytune.pipeline.synthesize import pool_block
from xraytune.records import Compute

QUALITY_STAGE = "quality-1"
FALSE_ALARMS = 0.05
_RECORD = "memorisation.json"
_PAIRS_SHOWN = 12


def refuse_memorised(settings: GanSettings, prepared: Prepared, *, compute: Compute, cache: Path) -> None:
    """Let a GAN pass whose images are no nearer to its training images than unseen X-rays are, or that may copy.

    New X-rays in place of the pool would be refused in at most 5 % of cases: each of C classes is tested at 0.05 / C.

    Args:
        settings: Of the GAN, which must have been trained; with `allow_memorised` nothing is looked at.
        prepared: Its train side and val-A are used.
        compute: What the GAN was trained with; the comparison itself runs on the CPU.
        cache: Where the outcome lies.

    Raises:
        TrialError: Too many images of a class are nearer to a training image than unseen X-rays are.
    """
    if settings.allow_memorised:
        return
    found, folder = measure_memorisation(settings, prepared, compute=compute, cache=cache)
    refused = {name: one for name, one in found.items() if one.chance <= FALSE_ALARMS / len(found)}
    if refused:
        raise TrialError(_problem(settings, refused, folder.relative_to(cache)))


def measure_memorisation(
    settings: GanSettings, prepared: Prepared, *, compute: Compute, cache: Path
) -> tuple[dict[str, Memorisation], Path]:
    """The outcome for each class, by name, and the artifact, in which `nearest_CLASS.png` shows the nearest pairs."""
    blocks = [
        pool_block(settings, label, 0, prepared, compute=compute, cache=cache)
        for label in range(len(prepared.class_names))
    ]
    compared = [[one.sha256, one.label, one.patient, one.side] for one in prepared.images if one.side != "val_b"]
    inputs = {
        "pools": [made for _, made in blocks],
        "images": fingerprint("images", {"compared": compared}),
        "pixels": [prepared.image_size_px, settings.image_size],
    }

    def build(folder: Path) -> None:
        record = {}
        for label, (pool, _) in enumerate(blocks):
            name = prepared.class_names[label]
            train = _side("train", label, settings.image_size, prepared, cache)
            val_a = _side("val_a", label, settings.image_size, prepared, cache)
            drawn = closeness(pool, train.images, train.patients)
            unseen = unseen_closeness(val_a.images, val_a.patients, train.images, train.patients)
            record[name] = asdict(compare_with_unseen(drawn.ratio, unseen))
            write_bytes(folder / f"nearest_{name}.png", _nearest_pairs(pool, train.images, drawn))
        write_json(folder / _RECORD, record)

    path = build_once(cache, QUALITY_STAGE, inputs, build)
    return {name: Memorisation(**values) for name, values in read_json(path / _RECORD).items()}, path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """The images of a class on one side of the split, uint8 [n, S, S] at the GAN's size, and who is on them."""

    images: NDArray[np.uint8]
    patients: tuple[str, ...]


def _side(side_name: SideName, label: int, size_px: int, prepared: Prepared, cache: Path) -> _Side:
    """Scaled as the GAN's training images are, so that the two differ in their content alone."""
    side = prepared.side(side_name)
    chosen = np.flatnonzero(side.labels == label)
    return _Side(
        images=scale_pixels(training_pixels(prepared, cache)[side.rows[chosen]], size_px),
        patients=tuple(side.patients[position] for position in chosen),
    )


def _nearest_pairs(pool: NDArray[np.uint8], training: NDArray[np.uint8], drawn: Closeness) -> bytes:
    """A PNG of the closest images, each with the training image that it is nearest to on its right; closest first."""
    closest = np.argsort(drawn.ratio, kind="stable")[:_PAIRS_SHOWN]
    pairs = np.stack([pool[closest], training[drawn.nearest[closest]]], axis=1)
    return png_bytes(draw_grid(pairs.reshape(-1, *pool.shape[1:]), columns=6))


def _problem(settings: GanSettings, refused: dict[str, Memorisation], artifact: Path) -> Problem:
    counts = ", ".join(
        f"{one.near} of {one.images} images of {name} (chance of that {one.chance:.1g})"
        for name, one in refused.items()
    )
    kind = f"gan of {settings.steps} steps, {settings.image_size} px, width {settings.width}, seed {settings.seed}"
    return Problem(
        f"the GAN copies what it was trained on: {counts} are nearer to a training image than 99 % of unseen X-rays; "
        f"the nearest pairs are drawn in {artifact.as_posix()} of the cache",
        kind,
        "train fewer steps (gan.steps), add real images, or set gan.allow_memorised: true",
    )
