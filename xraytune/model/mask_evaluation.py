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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.drawing import printable
from xraytune.base.files import csv_table, write_text
from xraytune.base.records import ignore_progress
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import ImageFile, LabelledImages
from xraytune.data.masks import read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.model.evaluation_figure import DrawnCase, draw_mask_evaluation
from xraytune.model.load import Bundle, Predictor
from xraytune.model.overlap import BOOTSTRAP_SEED, Evaluated
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskScores:
    """The metrics of each predicted mask, and what is needed to predict it again."""

    model: Predictor
    threshold: float
    images: ImageFiles
    by_file: Mapping[str, ImageFile]
    masks: tuple[ScoredMask, ...]
    broken: tuple[BrokenImage, ...]

    @property
    def files(self) -> Sequence[str]:
        """The images whose masks were scored."""
        return [mask.file for mask in self.masks]

    @property
    def _ranked(self) -> list[ScoredMask]:
        return sorted(self.masks, key=lambda mask: mask.metrics["dice"] or 0.0)

    def measure(
        self, columns: Mapping[str, Mapping[str, str]], about: Mapping[str, Any], replicates: int
    ) -> MaskEvaluation:
        """Compute all metrics; `about` has the other fields of `MaskEvaluation`."""

        def means(masks: Sequence[ScoredMask]) -> MaskMetrics:
            return mask_metrics(masks, replicates=replicates, seed=BOOTSTRAP_SEED)

        def subgroups(values: Mapping[str, str]) -> dict[str, MaskMetrics]:
            names = sorted({values.get(file, "") for file in self.files} - {""})
            return {name: means([mask for mask in self.masks if values.get(mask.file) == name]) for name in names}

        total = means(self.masks)
        return MaskEvaluation(
            **about,
            metrics=total.metrics,
            intervals=total.intervals,
            images=total.images,
            patients=total.patients,
            empty_predictions=total.empty_predictions,
            worst=tuple(self._ranked[:_WORST]),
            subgroups={name: subgroups(values) for name, values in columns.items()},
        )

    def write(self, evaluation: MaskEvaluation, folder: Path, replicates: int) -> None:  # noqa: ARG002
        """Write a table and a figure to a folder."""
        header = ("file", "patient", *(metric.name for metric in MASK_METRICS), "area")
        rows = ((PurePosixPath(mask.file), mask.patient, *mask.metrics.values(), mask.area) for mask in self.masks)
        write_text(folder / "per_image.csv", csv_table(header, rows))
        dices = [mask.metrics["dice"] or 0.0 for mask in self._ranked]
        note = (
            f"{evaluation.images:,} images of {evaluation.patients:,} patients, {evaluation.empty_predictions:,} with an "
            "empty prediction. Line and band: mean and its 95% interval over patients."
        )
        draw_mask_evaluation(dices, evaluation, self._cases(), folder, note=note)

    def _cases(self) -> dict[str, list[DrawnCase]]:
        """Predict the worst, median and best masks again, to draw them."""
        ranked = self._ranked
        count = max(1, min(_DRAWN, len(ranked) // 3))
        middle = (len(ranked) - count) // 2
        shown = {"worst": ranked[:count], "median": ranked[middle : middle + count], "best": ranked[-count:]}
        chosen = {mask.file: mask for masks in shown.values() for mask in masks}

        def case(file: str, image: NDArray[np.uint8], predicted: Masks) -> DrawnCase:
            metrics, true = chosen[file].metrics, read_mask(self.images.root, self.by_file[file].masks)
            hd95 = "undefined" if metrics["hd95_px"] is None else f"{metrics['hd95_px']:.1f} px"
            return DrawnCase(
                title=f"{printable(PurePosixPath(file).name)}\nDice {metrics['dice']:.3f}, HD95 {hd95}",
                image=_small(image),
                true=_small(true.astype(np.uint8) * 255) >= 128,
                predicted=_small(predicted.astype(np.uint8) * 255) >= 128,
            )

        images = replace(self.images, files=[*chosen], on_progress=ignore_progress)
        cases, _ = map_predicted(self.model, images, case, threshold=self.threshold)
        drawn = dict(zip(chosen, cases, strict=True))
        return {kind: [drawn[mask.file] for mask in masks] for kind, masks in shown.items()}


def score_masks(bundle: Bundle, labelled: LabelledImages, images: ImageFiles, threshold: float) -> MaskScores:
    """Predict the masks of a folder of pairs and score them; DataError if an image or mask is broken and none remains."""
    by_file = {image.file: image for image in labelled.images}

    def score(file: str, _: NDArray[np.uint8], predicted: Masks) -> ScoredMask | list[BrokenImage]:
        image = by_file[file]
        return use_mask(images.root, image, lambda true: scored_mask(predicted, true, file=file, patient=image.patient))

    model = bundle.predictor()
    results, broken = map_predicted(model, images, score, threshold=threshold)
    masks = tuple(result for result in results if isinstance(result, ScoredMask))
    broken += tuple(mask for result in results if isinstance(result, list) for mask in result)
    if broken and not (images.skip_broken and masks):
        raise broken_images_error(broken, images.root)
    return MaskScores(model=model, threshold=threshold, images=images, by_file=by_file, masks=masks, broken=broken)


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BOX)
    return np.asarray(image)
