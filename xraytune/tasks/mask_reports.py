"""What is written about a segmenter: its card, the masks of images, and its evaluation.

Masks are evaluated at the original size of each image: the network's probabilities, S x S, are
resized bilinearly and compared with the threshold. With `resize: crop`, everything outside the crop
is background.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xraytune.base.arrays import Float32Array, UInt8Array
from xraytune.base.files import csv_table, new_folder, write_text
from xraytune.base.records import ignore_progress
from xraytune.data.decoding import (
    LARGEST_SIDE_PX,
    BrokenImage,
    Resize,
    read_image,
    square_box,
    without_suffix,
)
from xraytune.data.guesses import casefold_text
from xraytune.data.images import ImageFile
from xraytune.data.masks import connected_parts, draw_outlines, read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.data.prepare import SplitData
from xraytune.stats.classification import Floats
from xraytune.stats.intervals import Measured
from xraytune.stats.segmentation import (
    MASK_METRICS,
    ScoredMask,
    mask_metrics,
    measure_means,
    scored_mask,
)
from xraytune.stats.segmentation import Masks as MaskArray
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.evaluation import Sample, Validated
from xraytune.tasks.prediction import (
    ImageFiles,
    Predicted,
    Predictor,
    Result,
    map_outputs,
)
from xraytune.tasks.reports import CARD_RESAMPLES, ClassReports, Mistakes

_WORST = 5


class MaskReports(ClassReports):
    """Reports on images with masks."""

    def card_metrics(
        self, prepared: SplitData, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the mean Dice at the network's resolution."""
        dice = {"dice": validated.results[:, 0]}
        means = measure_means(dice, validated.patients, resample_count=CARD_RESAMPLES)
        size_px = prepared.image_size_px
        return (CardMetric.of(means, "dice", f"mean Dice at {size_px} x {size_px} px"),)

    def write_predictions(
        self, model: Predictor, images: ImageFiles, out: Path | None
    ) -> Predicted:
        """Write a folder of masks and overlays, with a table of them."""
        assert out, "masks are written to a folder"
        names = _name_pictures(images.files)
        with new_folder(out) as folder:

            def write(file: str, image: UInt8Array, mask: MaskArray) -> tuple[str, float, int]:
                _save(mask.astype(np.uint8) * 255, folder / "masks" / names[file])
                _save(draw_outlines(image, mask), folder / "overlays" / names[file])
                return f"masks/{names[file]}", float(mask.mean()), connected_parts(mask)

            row_of, broken = _map_masks(model, images, write)
            rows = [(file, *row) for file, row in row_of.items()]
            table = csv_table(["file", "mask", "area", "parts"], rows)
            write_text(folder / "predictions.csv", table)
        areas = [area for _, _, area, _ in rows]
        empty = areas.count(0.0)
        return Predicted(
            path=out,
            images=len(rows),
            counts={"empty": empty},
            broken=broken,
            threshold=model.record.threshold,
            summary=f"{len(rows)} masks ({empty} empty), mean area {np.mean(areas):.0%} of the "
            "image; masks/, overlays/ and predictions.csv",
        )

    def predict_labelled(
        self, model: Predictor, labelled: Sequence[ImageFile], image_files: ImageFiles
    ) -> tuple[list[ImageFile], Any, tuple[BrokenImage, ...]]:
        """Return images, the metrics of their predicted masks, and broken images and masks.

        Raises DataError if any are broken, unless they are skipped and others remain.
        """
        by_file = {image.file: image for image in labelled}

        def score(file: str, _: UInt8Array, predicted: MaskArray) -> ScoredMask | BrokenImage:
            image = by_file[file]
            return use_mask(
                image_files.root,
                image,
                lambda true: scored_mask(predicted, true, file=file, patient=image.patient),
            )

        results, broken = _map_masks(model, image_files, score)
        masks = [result for result in results.values() if isinstance(result, ScoredMask)]
        broken += tuple(result for result in results.values() if isinstance(result, BrokenImage))
        if broken and not (image_files.skip_broken and masks):
            raise broken_images_error(broken, image_files.root)
        return [by_file[mask.file] for mask in masks], masks, broken

    def describe(self, sample: Sample) -> dict[str, Any]:
        """Return the fields of `Evaluation` about masks."""
        total = mask_metrics(sample.scored, resample_count=sample.resample_count)
        subgroups = sample.empty_groups()
        for column, value, rows in sample.subgroups():
            masks = [*compress(sample.scored, rows)]
            subgroups[column][value] = mask_metrics(masks, resample_count=sample.resample_count)
        notes = []
        if total.empty_predictions:
            text = (
                f"empty predictions: {total.empty_predictions} of {total.images}; their Dice of 0 "
                "counts, but HD95 is the mean of the others: it may fall with each missed image"
            )
            notes.append(text)
        worst = {
            mask.file: Measured(metrics=dict(mask.metrics), intervals={}) for mask in _worst(sample)
        }
        return {
            "metrics": total.metrics,
            "intervals": total.intervals,
            "groups": {"worst": worst},
            "subgroups": subgroups,
            "facts": {"empty_predictions": total.empty_predictions},
            "notes": notes,
        }

    def write_tables(self, sample: Sample, folder: Path) -> None:
        """Write a table of the images, and pictures of the worst masks next to the true ones."""
        header = ("file", "patient", *(metric.name for metric in MASK_METRICS), "area")
        rows = (
            (mask.file, mask.patient, *mask.metrics.values(), mask.area) for mask in sample.scored
        )
        write_text(folder / "per_image.csv", csv_table(header, rows))
        by_file = {image.file: image for image in sample.images}
        files = [mask.file for mask in _worst(sample)]
        names = _name_pictures(files)

        def save(file: str, image: UInt8Array, predicted: MaskArray) -> None:
            true = read_mask(sample.image_files.root, by_file[file])
            pair = np.hstack([draw_outlines(image, true), draw_outlines(image, predicted)])
            _save(pair, folder / "worst" / names[file])

        image_files = replace(sample.image_files, files=files, on_progress=ignore_progress)
        _map_masks(sample.model, image_files, save)

    def find_mistakes(self, results: Floats, prepared: SplitData, threshold: float) -> Mistakes:
        """Return all images, in the order of their Dice, the lowest first."""
        files = [image.file for image in prepared.side("val_b")]
        indices = np.argsort(results[:, 0], kind="stable").tolist()
        return Mistakes(
            title="Worst segmentations",
            note="Left: the outline of the mask; right: of the prediction.",
            indices=indices,
            rows=[{"file": files[index], "Dice": round(results[index, 0], 3)} for index in indices],
        )


def _worst(sample: Sample) -> list[ScoredMask]:
    """Return the masks with the lowest Dice."""
    return sorted(sample.scored, key=lambda mask: mask.metrics["dice"] or 0.0)[:_WORST]


def _save(pixels: UInt8Array, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, compress_level=3)


def _map_masks(
    model: Predictor, images: ImageFiles, use: Callable[[str, UInt8Array, MaskArray], Result]
) -> tuple[dict[str, Result], tuple[BrokenImage, ...]]:
    """Apply `use` to each file, its image at its own size, [H, W], and the predicted mask, [H, W].

    Returns the results by file, and the broken images. The errors are those of `map_outputs`.
    """
    resize = model.record.input_format.resize
    threshold = model.record.threshold

    def use_one(output: tuple[str, Float32Array]) -> Result:
        file, probabilities = output
        image = np.asarray(read_image(images.root / file, LARGEST_SIDE_PX).image)
        height, width = image.shape
        mask = whole_mask(probabilities, width, height, resize=resize, threshold=threshold)
        return use(file, image, mask)

    return map_outputs(model, images, use_one, title="segmenting images")


def whole_mask(
    probabilities: Float32Array,
    width_px: int,
    height_px: int,
    *,
    resize: Resize,
    threshold: float,
) -> MaskArray:
    """Return the mask of an image of any size, [H, W], from the network's probabilities, [S, S]."""
    side_px = len(probabilities)
    size = (width_px, height_px)
    left, upper, right, lower = square_box(size, size, side_px, resize) or (0, 0, *size)
    x = side_px / (right - left)
    y = side_px / (lower - upper)
    extent = (-left * x, -upper * y, (width_px - left) * x, (height_px - upper) * y)
    resized = Image.fromarray(probabilities).transform(
        size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR
    )
    mask: MaskArray = np.asarray(resized) >= threshold
    return mask


def _name_pictures(files: Sequence[str]) -> dict[str, str]:
    """Return the name of each file's picture, without the file's suffix if this is unambiguous."""
    stems = {file: without_suffix(file) for file in files}
    counts = Counter(map(casefold_text, stems.values()))
    return {
        file: f"{stem if counts[casefold_text(stem)] == 1 else file}.png"
        for file, stem in stems.items()
    }
