"""Images with masks: a segmenter, scored by the mean Dice.

An evaluation is at the original size of each image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.files import csv_table, new_folder, write_text
from xraytune.base.records import Compute, ignore_progress
from xraytune.base.tables import Cell, Row, Table
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import LabelledImages
from xraytune.data.masks import connected_parts, outlined, read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.data.prepare import ImageSource, Prepared
from xraytune.space.settings import Parameters
from xraytune.stats.classification import Floats, Labels
from xraytune.stats.placements import StructuralComponents, mean_components
from xraytune.stats.segmentation import (
    MASK_METRICS,
    MaskMetrics,
    ScoredMask,
    mask_metrics,
    measure_means,
    scored_mask,
)
from xraytune.stats.segmentation import (
    Masks as MaskArray,
)
from xraytune.tasks.bundle_record import CardMetric
from xraytune.tasks.calibration import Calibration
from xraytune.tasks.evaluated import (
    BOOTSTRAP_SEED,
    About,
    Evaluated,
    Parts,
    Write,
    format_metric,
    tall_table,
    wide_table,
)
from xraytune.tasks.prediction import (
    ImageFiles,
    PredictedMasks,
    Predictor,
    map_predicted,
    name_pictures,
)
from xraytune.tasks.task import CARD_REPLICATES, Mistakes, Results, Task, Validated

if TYPE_CHECKING:
    from torch import Tensor, nn

_WORST = 5


@dataclass(frozen=True, kw_only=True)
class Masks(Task):
    """Images, of a single class, with masks."""

    metric: ClassVar[str] = "Dice"
    network: ClassVar[str] = "segmenter"
    packages: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "segmentation-models-pytorch")
    has_masks: ClassVar[bool] = True
    caches_features: ClassVar[bool] = False

    def build_network(
        self, parameters: Parameters, output_count: int, *, weights: Path | None, seed: int
    ) -> nn.Module:
        """Build a U-Net."""
        from xraytune.nets.segmenter import build_segmenter

        return build_segmenter(parameters, weights=weights, seed=seed)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of soft Dice loss and cross-entropy of logits and masks, [B, 1, S, S]."""
        from xraytune.nets.segmenter import mask_loss

        return mask_loss(outputs, targets)

    def probabilities(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Return the probability of each pixel, float32 [N, S, S]."""
        from torch import from_numpy

        return from_numpy(logits[:, 0]).sigmoid().numpy()

    def predict(
        self, network: nn.Module, batches: Iterable[Tensor], images: ImageSource, compute: Compute
    ) -> tuple[float, Results, NDArray[Any]]:
        """Return the mean loss, the Dice of each image, and its loss, [N, 1]."""
        from xraytune.nets.segmenter import segment

        losses, dices = segment(network, batches, images.read_masks, compute=compute)
        return float(losses.mean()), dices[:, None], losses[:, None]

    def score(self, labels: Labels, results: Results, *, positive: int) -> float:
        """Return the mean Dice."""
        return float(results.mean())

    def threshold(self, labels: Labels, results: Results, positive: int) -> float:
        """Return the threshold of a pixel."""
        from xraytune.nets.augment import MASK_THRESHOLD

        return MASK_THRESHOLD

    def components(
        self, labels: Labels, results: Floats, patients: Sequence[str], positive: int
    ) -> StructuralComponents:
        """Return mean Dice with the contribution of each patient to its variance."""
        return mean_components(results[..., 0], patients)

    def positive_class(self, prepared: Prepared) -> str | None:
        """Return None."""
        return None

    def card_metrics(
        self, prepared: Prepared, threshold: float, validated: Validated
    ) -> tuple[CardMetric, ...]:
        """Return the mean Dice at the network's resolution."""
        dice = {"dice": validated.results[:, 0]}
        means = measure_means(dice, validated.patients, replicates=CARD_REPLICATES, seed=0)
        size_px = prepared.image_size_px
        return (CardMetric.of(means, "dice", f"mean Dice at {size_px} x {size_px} px"),)

    def write_predictions(self, model: Predictor, images: ImageFiles, out: Path) -> PredictedMasks:
        """Write a folder of masks and overlays, with a table of them."""
        names = name_pictures(images.files)
        with new_folder(out) as folder:

            def write(
                file: str, image: NDArray[np.uint8], mask: MaskArray
            ) -> tuple[PurePosixPath, PurePosixPath, float, int]:
                for kind, pixels in (
                    ("masks", mask.astype(np.uint8) * 255),
                    ("overlays", outlined(image, mask)),
                ):
                    _save(pixels, folder / kind / names[file], compress_level=3)
                where = PurePosixPath("masks", names[file])
                return PurePosixPath(file), where, float(mask.mean()), connected_parts(mask)

            rows, broken = map_predicted(model, images, write)
            table = csv_table(["file", "mask", "area", "parts"], rows)
            write_text(folder / "predictions.csv", table)
        areas = [area for _, _, area, _ in rows]
        return PredictedMasks(
            path=out,
            images=len(rows),
            empty=areas.count(0.0),
            area=float(np.mean(areas)),
            broken=broken,
        )

    def require_labels(self, labelled: LabelledImages, outputs: Sequence[str]) -> None:
        """Accept all images: each has a mask."""

    def evaluate(
        self,
        model: Predictor,
        labelled: LabelledImages,
        images: ImageFiles,
        columns: Mapping[str, Mapping[str, str]],
        *,
        replicates: int,
        about: About,
        calibration: Calibration | None = None,
    ) -> tuple[Evaluated, Write]:
        """Predict the masks of images and compare them with the true masks.

        DataError if images or masks are broken.
        """
        by_file = {image.file: image for image in labelled.images}

        def score(
            file: str, _: NDArray[np.uint8], predicted: MaskArray
        ) -> ScoredMask | BrokenImage:
            image = by_file[file]
            return use_mask(
                images.root,
                image,
                lambda true: scored_mask(predicted, true, file=file, patient=image.patient),
            )

        results, broken = map_predicted(model, images, score)
        masks = [result for result in results if isinstance(result, ScoredMask)]
        broken += tuple(result for result in results if isinstance(result, BrokenImage))
        if broken and not (images.skip_broken and masks):
            raise broken_images_error(broken, images.root)
        shared = about([mask.file for mask in masks], broken)

        def measure(masks: Sequence[ScoredMask]) -> MaskMetrics:
            return mask_metrics(masks, replicates=replicates, seed=BOOTSTRAP_SEED)

        def measure_by_value(values: Mapping[str, str]) -> dict[str, MaskMetrics]:
            by_value: dict[str, list[ScoredMask]] = {}
            for mask in masks:
                by_value.setdefault(values.get(mask.file, ""), []).append(mask)
            return {value: measure(of) for value, of in sorted(by_value.items()) if value}

        total = measure(masks)
        evaluation = MaskEvaluation(
            **shared,
            metrics=total.metrics,
            intervals=total.intervals,
            images=total.images,
            patients=total.patients,
            empty_predictions=total.empty_predictions,
            worst=tuple(sorted(masks, key=lambda mask: mask.metrics["dice"] or 0.0)[:_WORST]),
            subgroups={name: measure_by_value(values) for name, values in columns.items()},
        )

        def write(folder: Path) -> None:
            header = ("file", "patient", *(metric.name for metric in MASK_METRICS), "area")
            rows = (
                (PurePosixPath(mask.file), mask.patient, *mask.metrics.values(), mask.area)
                for mask in masks
            )
            write_text(folder / "per_image.csv", csv_table(header, rows))
            files = [mask.file for mask in evaluation.worst]
            names = name_pictures(files)

            def save(file: str, image: NDArray[np.uint8], predicted: MaskArray) -> None:
                true = read_mask(images.root, by_file[file])
                pair = np.hstack([outlined(image, true), outlined(image, predicted)])
                _save(pair, folder / "worst" / names[file])

            map_predicted(model, replace(images, files=files, on_progress=ignore_progress), save)

        return evaluation, write

    def find_mistakes(
        self, results: Results, prepared: Prepared, threshold: float, trial: int
    ) -> Mistakes | None:
        """Return all images, those with the lowest Dice first."""
        files = [image.file for image in prepared.images if image.side == "val_b"]
        places = np.argsort(results[:, 0], kind="stable").tolist()
        return Mistakes(
            title="Worst segmentations",
            note="Left: the outline of the mask; right: of the prediction.",
            places=places,
            captions=[f"{Path(files[at]).name}: Dice {results[at, 0]:.3f}" for at in places],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskEvaluation(Evaluated):
    """The metrics of a segmenter, at the original size of each image, and the `worst` images.

    See also `MaskMetrics`.
    """

    empty_predictions: int
    worst: tuple[ScoredMask, ...]
    subgroups: dict[str, dict[str, MaskMetrics]]

    def parts(self) -> Parts:
        """Yield the lines and tables of the metrics."""
        yield tall_table(self, MASK_METRICS, value="mean")
        if self.empty_predictions:
            text = (
                f"empty predictions: {self.empty_predictions} of {self.images}; their Dice of 0 "
                "counts, but HD95 is the mean of the others: it may fall with each missed image"
            )
            yield Cell(text, "busy")
        worst: list[Row] = []
        for mask in self.worst:
            values = {
                metric.label: format_metric(mask.metrics[metric.name], metric)
                for metric in MASK_METRICS
            }
            worst.append({"": mask.file, **values})
        yield Table(worst, "The images with the lowest Dice")
        counts = {"images": "images", "patients": "patients", "empty": "empty_predictions"}
        for column, subgroups in self.subgroups.items():
            yield wide_table(subgroups, MASK_METRICS, counts, f"By {column} (exploratory)")


def _save(pixels: NDArray[np.uint8], file: Path, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
