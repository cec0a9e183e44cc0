"""Run a predictor on image files, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from xraytune.cores import map_on_cores
from xraytune.data.decoding import BrokenImage, InputFormat
from xraytune.data.pixels import broken_images_error, decode_images
from xraytune.errors import DataError, Problem
from xraytune.pipeline.predictor import Pixels
from xraytune.records import Progress

_BATCH_SIZE = 64
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Files below `root` to predict; broken images are left out or an error."""

    root: Path
    files: Sequence[str]
    skip_broken: bool
    on_progress: Progress


def map_outputs(
    run: Callable[[Pixels], Any],
    form: InputFormat,
    images: ImageFiles,
    use: Callable[[str, Any], Result],
    *,
    title: str,
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use`, on all cores, to each file and its output; return the results in order, and broken images.

    `run` maps images, uint8 [n, S, S], to one output each; see `Predictor`. `title` labels the progress bar.

    Raises:
        DataError: Images are broken, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    broken: list[BrokenImage] = []
    batch: dict[str, Pixels] = {}
    results: list[Result] = []

    def run_batch() -> None:
        outputs = run(np.stack([*batch.values()]))
        results.extend(map_on_cores(lambda output: use(*output), [*zip(batch, outputs, strict=True)]))
        batch.clear()

    decoded = decode_images(
        images.root,
        images.files,
        form.image_size_px,
        resize=form.resize,
        on_progress=lambda _, done, total: images.on_progress(title, done, total),
    )
    for file, image in zip(images.files, decoded, strict=True):
        if isinstance(image, BrokenImage):
            broken.append(image)
        elif images.skip_broken or not broken:  # otherwise only decoded, to list all broken ones
            batch[file] = image
            if len(batch) == _BATCH_SIZE:
                run_batch()
    if broken and not images.skip_broken:
        raise broken_images_error(broken, images.root)
    if len(broken) == len(images.files):
        what, first = f"all {len(broken)} images are broken", f"the first one: {broken[0].reason}"
        raise DataError(Problem(what, images.root, first))
    if batch:
        run_batch()
    return results, tuple(broken)
