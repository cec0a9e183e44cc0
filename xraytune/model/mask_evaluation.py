"""Score the masks of a segmenter against true masks, at the original size of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.files import csv_table, write_text
from xraytune.base.records import ignore_progress
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import LabelledImages
from xraytune.data.masks import outlined, read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.model.load import Bundle
from xraytune.model.overlap import BOOTSTRAP_SEED, About, Evaluated, Write
from xraytune.model.predict import ImageFiles, map_predicted, picture_names
from xraytune.stats.segmentation import (
    MASK_METRICS,
    MaskMetrics,
    Masks,
    ScoredMask,
    mask_metrics,
    scored_mask,
)

_WORST = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskEvaluation(Evaluated):
    """The metrics of a segmenter, at the original size of each image, and the `worst` images; see also `MaskMetrics`."""

    empty_predictions: int
    worst: tuple[ScoredMask, ...]
    subgroups: dict[str, dict[str, MaskMetrics]]


def evaluate_masks(
    bundle: Bundle,
    labelled: LabelledImages,
    images: ImageFiles,
    columns: Mapping[str, Mapping[str, str]],
    *,
    replicates: int,
    about: About,
) -> tuple[MaskEvaluation, Write]:
    """Predict the masks of images and compare them with the true masks; DataError if images or masks are broken."""
    by_file = {image.file: image for image in labelled.images}

    def score(file: str, _: NDArray[np.uint8], predicted: Masks) -> ScoredMask | list[BrokenImage]:
        image = by_file[file]
        return use_mask(
            images.root,
            image,
            lambda true: scored_mask(predicted, true, file=file, patient=image.patient),
        )

    model = bundle.predictor()
    results, broken = map_predicted(model, images, score)
    masks = [result for result in results if isinstance(result, ScoredMask)]
    broken += tuple(mask for result in results if isinstance(result, list) for mask in result)
    if broken and not (images.skip_broken and masks):
        raise broken_images_error(broken, images.root)
    shared = about([mask.file for mask in masks], broken)

    def means(masks: Sequence[ScoredMask]) -> MaskMetrics:
        return mask_metrics(masks, replicates=replicates, seed=BOOTSTRAP_SEED)

    def subgroups(values: Mapping[str, str]) -> dict[str, MaskMetrics]:
        names = sorted({values.get(mask.file, "") for mask in masks} - {""})
        return {
            name: means([mask for mask in masks if values.get(mask.file) == name]) for name in names
        }

    total = means(masks)
    evaluation = MaskEvaluation(
        **shared,
        metrics=total.metrics,
        intervals=total.intervals,
        images=total.images,
        patients=total.patients,
        empty_predictions=total.empty_predictions,
        worst=tuple(sorted(masks, key=lambda mask: mask.metrics["dice"] or 0.0)[:_WORST]),
        subgroups={name: subgroups(values) for name, values in columns.items()},
    )

    def write(folder: Path) -> None:
        header = ("file", "patient", *(metric.name for metric in MASK_METRICS), "area")
        rows = (
            (PurePosixPath(mask.file), mask.patient, *mask.metrics.values(), mask.area)
            for mask in masks
        )
        write_text(folder / "per_image.csv", csv_table(header, rows))
        files = [mask.file for mask in evaluation.worst]
        names = picture_names(files)

        def draw(file: str, image: NDArray[np.uint8], predicted: Masks) -> None:
            true, picture = (
                read_mask(images.root, by_file[file].masks),
                folder / "worst" / names[file],
            )
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.hstack([outlined(image, true), outlined(image, predicted)])).save(
                picture
            )

        map_predicted(model, replace(images, files=files, on_progress=ignore_progress), draw)

    return evaluation, write
