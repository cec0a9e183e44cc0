"""Score the masks of a segmenter against true masks, at the original size of each image.

The folder holds:

    metrics.json            all metrics, with 95 % intervals over patients
    per_image.csv           file, patient, metrics (HD95 is empty if undefined), area (share of the image)
    evaluation.png, .svg    the distribution of Dice, and the worst, median and best cases
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.drawing import drawable
from xraytune.base.files import csv_table, write_text
from xraytune.base.records import ignore_progress
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, LabelledImages
from xraytune.data.masks import read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.model.evaluation_figure import DrawnCase, draw_mask_evaluation
from xraytune.model.load import Bundle, Predictor
from xraytune.model.overlap import BOOTSTRAP_SEED, About, Evaluated, Write
from xraytune.model.predict import ImageFiles, map_predicted
from xraytune.stats.segmentation import MASK_METRICS, MaskMetrics, Masks, ScoredMask, mask_metrics, scored_mask

_WORST = 5
_DRAWN, _DRAWN_PX = 3, 360


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
        return use_mask(images.root, image, lambda true: scored_mask(predicted, true, file=file, patient=image.patient))

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
        return {name: means([mask for mask in masks if values.get(mask.file) == name]) for name in names}

    total = means(masks)
    ranked = sorted(masks, key=lambda mask: mask.metrics["dice"] or 0.0)
    evaluation = MaskEvaluation(
        **shared,
        metrics=total.metrics,
        intervals=total.intervals,
        images=total.images,
        patients=total.patients,
        empty_predictions=total.empty_predictions,
        worst=tuple(ranked[:_WORST]),
        subgroups={name: subgroups(values) for name, values in columns.items()},
    )

    def write(folder: Path) -> None:
        header = ("file", "patient", *(metric.name for metric in MASK_METRICS), "area")
        rows = ((PurePosixPath(mask.file), mask.patient, *mask.metrics.values(), mask.area) for mask in masks)
        write_text(folder / "per_image.csv", csv_table(header, rows))
        note = (
            f"{evaluation.images:,} images of {evaluation.patients:,} patients, {evaluation.empty_predictions:,} with an "
            "empty prediction. Line and band: mean and its 95% interval over patients."
        )
        dices = [mask.metrics["dice"] or 0.0 for mask in ranked]
        cases = _cases(model, ranked, by_file, images)
        draw_mask_evaluation(dices, evaluation, cases, folder, note=note)

    return evaluation, write


def _cases(
    model: Predictor,
    ranked: Sequence[ScoredMask],
    by_file: Mapping[str, ImageFile],
    images: ImageFiles,
) -> dict[str, list[DrawnCase]]:
    """Predict the worst, median and best masks again, to draw them."""
    count = max(1, min(_DRAWN, len(ranked) // 3))
    middle = (len(ranked) - count) // 2
    shown = {"worst": ranked[:count], "median": ranked[middle : middle + count], "best": ranked[-count:]}
    chosen = {mask.file: mask for masks in shown.values() for mask in masks}

    def case(file: str, image: NDArray[np.uint8], predicted: Masks) -> DrawnCase:
        metrics, true = chosen[file].metrics, read_mask(images.root, by_file[file].masks)
        hd95 = "undefined" if metrics["hd95_px"] is None else f"{metrics['hd95_px']:.1f} px"
        return DrawnCase(
            title=f"{drawable(PurePosixPath(file).name)}\nDice {metrics['dice']:.3f}, HD95 {hd95}",
            image=_small(image),
            true=_small(true.astype(np.uint8) * 255) >= 128,
            predicted=_small(predicted.astype(np.uint8) * 255) >= 128,
        )

    again = replace(images, files=[*chosen], on_progress=ignore_progress)
    cases, _ = map_predicted(model, again, case)
    drawn = dict(zip(chosen, cases, strict=True))
    return {kind: [drawn[mask.file] for mask in masks] for kind, masks in shown.items()}


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BOX)
    return np.asarray(image)
