"""Score the masks of a segmenter against true masks, at the original size of each image.

`evaluate` writes a folder:

    metrics.json            all metrics, with 95 % intervals over patients
    per_image.csv           file, patient, dice, iou, hd95_px (empty if undefined), area (share of the image)
    evaluation.png, .svg    the distribution of Dice, and the worst, median and best cases
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.drawing import printable
from xraytune.base.files import csv_table, new_folder, write_json, write_text
from xraytune.base.records import Json, ignore_progress, to_json
from xraytune.data.decoding import BrokenImage
from xraytune.data.index import LabelledImages
from xraytune.data.masks import read_mask, use_mask
from xraytune.data.pixels import broken_images_error
from xraytune.model.evaluation_figure import DrawnCase, draw_mask_evaluation
from xraytune.model.load import Bundle
from xraytune.model.overlap import Overlap, overlap_of
from xraytune.model.predict import ImageFiles, map_predicted
from xraytune.stats.segmentation import MaskMetrics, Masks, ScoredMask, mask_metrics, scored_mask

if TYPE_CHECKING:
    import pandas as pd

_WORST = 5
_DRAWN, _DRAWN_PX = 3, 360
BOOTSTRAP_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskEvaluation(Overlap):
    """The metrics of a segmenter, at the original size of each image, and the `worst` images; see also `Evaluation`."""

    model: Path
    data: Path
    out: Path | None
    metrics: MaskMetrics
    worst: tuple[ScoredMask, ...]
    subgroups: dict[str, dict[str, MaskMetrics]]
    broken: tuple[BrokenImage, ...]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with a row for each metric: `value`, and its 95 % interval from `low` to `high`."""
        import pandas as pd  # takes most of a second

        values = {name: getattr(self.metrics, name) for name in ("dice", "iou", "hd95_px")}
        intervals = pd.DataFrame(self.metrics.intervals, index=["low", "high"]).T
        return pd.DataFrame({"value": values}).join(intervals)

    def to_json(self) -> dict[str, Json]:
        """Return the evaluation as a JSON object, with the metrics at the top level."""
        content = to_json(self)
        return {**content.pop("metrics"), **content}


def evaluate_masks(
    bundle: Bundle,
    data: Path,
    found: LabelledImages,
    images: ImageFiles,
    columns: Mapping[str, Mapping[str, str]],
    *,
    out: Path | None,
    threshold: float,
    reason: str,
    replicates: int,
) -> MaskEvaluation:
    """Predict the masks of a folder of pairs and compare them with the true masks; see `evaluate`."""
    root, by_file = images.root, {image.file: image for image in found.images}

    def score(file: str, _: NDArray[np.uint8], predicted: Masks) -> ScoredMask | list[BrokenImage]:
        image = by_file[file]
        return use_mask(root, image, lambda true: scored_mask(predicted, true, file=file, patient=image.patient))

    model = bundle.predictor()
    results, broken = map_predicted(model, images, score, threshold=threshold)
    scores = [one for one in results if isinstance(one, ScoredMask)]
    broken += tuple(mask for one in results if isinstance(one, list) for mask in one)
    if broken and not (images.skip_broken and scores):
        raise broken_images_error(broken, root)
    overlap = overlap_of(bundle, found, [one.file for one in scores], reason=reason)  # before any metric can be seen

    def metrics_of(own: Sequence[ScoredMask]) -> MaskMetrics:
        return mask_metrics(own, replicates=replicates, seed=BOOTSTRAP_SEED)

    def subgroups_of(values: Mapping[str, str]) -> dict[str, MaskMetrics]:
        names = sorted({values.get(one.file, "") for one in scores} - {""})
        return {name: metrics_of([one for one in scores if values.get(one.file) == name]) for name in names}

    ranked = sorted(scores, key=lambda one: one.dice)
    evaluation = MaskEvaluation(
        model=bundle.path,
        data=data,
        out=out,
        metrics=metrics_of(scores),
        worst=tuple(ranked[:_WORST]),
        subgroups={name: subgroups_of(values) for name, values in columns.items()},
        broken=broken,
        **asdict(overlap),
    )
    if out is not None:
        count = max(1, min(_DRAWN, len(ranked) // 3))
        middle = (len(ranked) - count) // 2
        shown = {"worst": ranked[:count], "median": ranked[middle : middle + count], "best": ranked[-count:]}
        chosen = {one.file: one for own in shown.values() for one in own}

        def case(file: str, image: NDArray[np.uint8], predicted: Masks) -> DrawnCase:
            one, true = chosen[file], read_mask(root, by_file[file].masks)
            hd95 = "undefined" if one.hd95_px is None else f"{one.hd95_px:.1f} px"
            return DrawnCase(
                title=f"{printable(PurePosixPath(file).name)}\nDice {one.dice:.3f}, HD95 {hd95}",
                image=_small(image),
                true=_small(true.astype(np.uint8) * 255) >= 128,
                predicted=_small(predicted.astype(np.uint8) * 255) >= 128,
            )

        again = replace(images, files=[*chosen], on_progress=ignore_progress)
        cases, _ = map_predicted(model, again, case, threshold=threshold)
        drawn = dict(zip(chosen, cases, strict=True))
        with new_folder(out) as folder:
            write_json(folder / "metrics.json", evaluation.to_json())
            rows = ([*{**asdict(one), "file": PurePosixPath(one.file)}.values()] for one in scores)
            write_text(folder / "per_image.csv", csv_table([field.name for field in fields(ScoredMask)], rows))
            by_kind = {kind: [drawn[one.file] for one in own] for kind, own in shown.items()}
            draw_mask_evaluation([one.dice for one in ranked], evaluation.metrics, by_kind, folder)
    return evaluation


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    image.thumbnail((_DRAWN_PX, _DRAWN_PX), Image.Resampling.BOX)
    return np.asarray(image)
