"""Predict images one batch at a time: their classes, in a CSV file, or their masks.

A mask has the size of its image: the network's probabilities, S x S, are resized bilinearly and
compared with the threshold. With `resize: crop`, everything outside the crop is background.
docs/evaluate.md lists the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraytune.base.cores import map_on_cores
from xraytune.base.errors import DataError, Problem
from xraytune.base.files import csv_table, new_folder, require_new, write_text
from xraytune.base.records import Progress, ignore_progress
from xraytune.data.decoding import BrokenImage, Resize, read_image, square_box
from xraytune.data.folders import list_images, pair_folders
from xraytune.data.formats import LARGEST_SIDE_PX, without_suffix
from xraytune.data.guesses import folded
from xraytune.data.masks import connected_parts, outlined
from xraytune.data.pixels import broken_images_error, decode_images
from xraytune.model.load import Pixels, Predictor, open_bundle
from xraytune.stats.classification import Flags, Floats, Labels, predicted_classes
from xraytune.stats.segmentation import Masks

_BATCH_SIZE = 64
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Summary of predictions.

    Attributes:
        counts: Images predicted as each class, or as having each finding.
        positive: The positive class of two, predicted from the probability `threshold`; both None
        with more classes.
    """

    path: Path
    images: int
    counts: dict[str, int]
    positive: str | None
    threshold: float | None
    broken: tuple[BrokenImage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMasks:
    """Summary of predicted masks: how many are `empty`, and the mean share of an image that they cover (`area`)."""

    path: Path
    images: int
    empty: int
    area: float
    broken: tuple[BrokenImage, ...]


def predict(
    model: Path,
    images: Path,
    *,
    out: Path,
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
) -> Predicted | PredictedMasks:
    """Predict classes, written to a CSV file (see `predictions_csv`), or masks.

    Args:
        model: Model bundle.
        images: One image, or a folder with images at any depth; `file` is relative to it, sorted.
        out: CSV file to write, or for a segmenter the folder to create, with masks, overlays and a
        table.
        skip_broken: Leave out broken images.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` exists.
        ArtifactError: The bundle is missing or damaged.
        DataError: There are no images, or broken ones, or the folder contains pairs.
        MachineError: The packages of a segmenter are not installed.
    """
    require_new(out)
    predictor = open_bundle(model).predictor()
    record = predictor.record
    if len(pairs := pair_folders(images)) == 2:
        what = "this is a folder of pairs, and masks are not X-rays"
        raise DataError(Problem(what, images, f"give only its images: {pairs['images']}"))
    root, files = images.parent, [images.name]
    if not images.is_file():
        root, files = images, [file.relative_to(images).as_posix() for file in list_images(images)]
    given = ImageFiles(root=root, files=files, skip_broken=skip_broken, on_progress=on_progress)
    if record.task == "segmentation":
        return predict_masks(predictor, given, out)
    names = record.class_names
    used, probabilities, broken = predict_images(predictor, given)
    predicted: Labels | Flags
    if record.task == "findings":
        shown, predicted = None, probabilities >= [record.thresholds[name] for name in names]
        counts = predicted.sum(axis=0).tolist()
    else:
        predicted = predicted_classes(
            probabilities, positive=names.index(record.positive_name), threshold=record.threshold
        )
        shown = record.threshold if len(names) == 2 else None
        counts = np.bincount(predicted, minlength=len(names)).tolist()
    write_text(out, predictions_csv(names, used, probabilities, predicted, threshold=shown))
    return Predicted(
        path=out,
        images=len(used),
        counts=dict(zip(names, counts, strict=True)),
        positive=None if shown is None else record.positive,
        threshold=shown,
        broken=broken,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """Files below `root` to predict; broken images are left out or an error."""

    root: Path
    files: Sequence[str]
    skip_broken: bool
    on_progress: Progress


def map_outputs(
    model: Predictor, images: ImageFiles, use: Callable[[str, Any], Result], *, title: str
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use`, on all cores, to each file and the model's output; return the results in order, and broken images.

    Raises:
        DataError: Images are broken, unless `skip_broken` leaves them out and others remain.
        ArtifactError: The network's output is not finite.
    """
    form = model.record.input_format
    broken: list[BrokenImage] = []
    results: list[Result] = []
    decoded = decode_images(
        images.root,
        images.files,
        form.image_size_px,
        resize=form.resize,
        on_progress=lambda _, done, total: images.on_progress(title, done, total),
    )

    def usable() -> Iterator[tuple[str, Pixels]]:
        for file, image in zip(images.files, decoded, strict=True):
            if isinstance(image, BrokenImage):
                broken.append(image)
            elif (
                images.skip_broken or not broken
            ):  # otherwise only decoded, to list all broken ones
                yield file, image

    pairs = usable()
    while batch := [*islice(pairs, _BATCH_SIZE)]:
        files, pixels = zip(*batch, strict=True)
        outputs = model.run(np.stack(pixels))
        results += map_on_cores(lambda output: use(*output), [*zip(files, outputs, strict=True)])
    if broken and not images.skip_broken:
        raise broken_images_error(broken, images.root)
    if len(broken) == len(images.files):
        what = f"all {len(broken)} images are broken"
        raise DataError(Problem(what, images.root, f"the first one: {broken[0].reason}"))
    return results, tuple(broken)


def predict_images(
    model: Predictor, images: ImageFiles
) -> tuple[tuple[str, ...], Floats, tuple[BrokenImage, ...]]:
    """Return the files that could be decoded, in order, with their probabilities, float64 [N, C], and the broken images.

    Raises what `map_outputs` does.
    """
    results, broken = map_outputs(
        model, images, lambda file, row: (file, row), title="classifying images"
    )
    used, rows = zip(*results, strict=True)
    return used, np.stack(rows), broken


def predictions_csv(
    class_names: Sequence[str],
    files: Sequence[str],
    probabilities: Floats,
    predicted: Labels | Flags,
    *,
    threshold: float | None = None,
    about: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the table: `file`, the columns of `about`, `probability_CLASS` per class, `threshold` if given, `predicted`.

    With findings, bool [N, C], each has a column `predicted_FINDING` of 0 or 1.
    """
    columns: dict[str, Sequence[PurePosixPath | str | float]] = {
        "file": [*map(PurePosixPath, files)],
        **(about or {}),
    }
    for name, column in zip(class_names, probabilities.T, strict=True):
        columns[f"probability_{name}"] = column.tolist()
    if threshold is not None:
        columns["threshold"] = [threshold] * len(files)
    if predicted.ndim == 1:
        columns["predicted"] = [class_names[label] for label in predicted]
    else:
        for name, has_finding in zip(class_names, predicted.T.astype(int), strict=True):
            columns[f"predicted_{name}"] = has_finding.tolist()
    return csv_table([*columns], zip(*columns.values(), strict=True))


def predict_masks(model: Predictor, images: ImageFiles, out: Path) -> PredictedMasks:
    """Write a folder of masks and overlays, with a table of them."""
    names = picture_names(images.files)
    with new_folder(out) as folder:

        def write(
            file: str, image: NDArray[np.uint8], mask: Masks
        ) -> tuple[PurePosixPath, PurePosixPath, float, int]:
            for kind, pixels in (
                ("masks", mask.astype(np.uint8) * 255),
                ("overlays", outlined(image, mask)),
            ):
                target = folder / kind / names[file]
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(target, compress_level=3)
            where = PurePosixPath("masks", names[file])
            return PurePosixPath(file), where, float(mask.mean()), connected_parts(mask)

        rows, broken = map_predicted(model, images, write)
        write_text(folder / "predictions.csv", csv_table(["file", "mask", "area", "parts"], rows))
    areas = [area for _, _, area, _ in rows]
    return PredictedMasks(
        path=out,
        images=len(rows),
        empty=areas.count(0.0),
        area=float(np.mean(areas)),
        broken=broken,
    )


def map_predicted(
    model: Predictor, images: ImageFiles, use: Callable[[str, NDArray[np.uint8], Masks], Result]
) -> tuple[list[Result], tuple[BrokenImage, ...]]:
    """Apply `use` to each file, its image in its own size, [H, W], and the predicted mask, [H, W].

    Return the results in order, and the broken images; raises what `map_outputs` does.
    """
    resize, threshold = model.record.input_format.resize, model.record.threshold

    def use_one(file: str, probabilities: NDArray[np.float32]) -> Result:
        image = np.asarray(read_image(images.root / file, LARGEST_SIDE_PX).image)
        return use(
            file,
            image,
            whole_mask(probabilities, *image.shape[::-1], resize=resize, threshold=threshold),
        )

    return map_outputs(model, images, use_one, title="segmenting images")


def whole_mask(
    probabilities: NDArray[np.float32],
    width_px: int,
    height_px: int,
    *,
    resize: Resize,
    threshold: float,
) -> Masks:
    """Return the mask of an image of any size, [H, W], from the network's probabilities, [S, S]."""
    side_px, size = len(probabilities), (width_px, height_px)
    left, upper, right, lower = square_box(size, size, side_px, resize) or (0, 0, *size)
    x, y = side_px / (right - left), side_px / (lower - upper)
    extent = (-left * x, -upper * y, (width_px - left) * x, (height_px - upper) * y)
    resized = Image.fromarray(probabilities).transform(
        size, Image.Transform.EXTENT, extent, Image.Resampling.BILINEAR
    )
    mask: Masks = np.asarray(resized) >= threshold
    return mask


def picture_names(files: Sequence[str]) -> dict[str, str]:
    """Return the name of each file's picture: without the file's suffix, unless another file has or gets that name."""
    stems = {file: without_suffix(file) for file in files}
    claims = Counter(
        claim for file, stem in stems.items() for claim in {folded(stem), folded(file)}
    )
    return {
        file: f"{stem if claims[folded(stem)] == 1 else file}.png" for file, stem in stems.items()
    }
