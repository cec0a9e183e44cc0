"""Predict images: their classes, in a CSV file with the probability of each class, or their masks (`segmentation.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from xraytune.data.decoding import BrokenImage
from xraytune.data.layout import list_images, pair_folders
from xraytune.errors import ConfigError, DataError, Problem
from xraytune.export.onnx_model import ONNX_FILE, open_onnx
from xraytune.export.outputs import ImageFiles, map_outputs
from xraytune.export.segmentation import PredictedMasks, picture_names, predict_masks
from xraytune.files import csv_table, new_folder, require_new, write_bytes, write_text
from xraytune.metrics.classification import Floats, Labels, predicted_classes
from xraytune.pipeline.predictor import Pixels, Predictor, threshold_of
from xraytune.records import Json, Progress, ignore_progress


def predict_images(
    model: Predictor, images: ImageFiles, *, grad_cam: Path | None = None
) -> tuple[tuple[str, ...], Floats, tuple[BrokenImage, ...]]:
    """Predict classes, and write a picture of each image with its Grad-CAM map to the folder `grad_cam`, if given.

    Return the files that could be decoded, in order, with their probabilities, float64 [N, C], and the broken images;
    raise what `map_outputs` does.
    """
    run: Callable[[Pixels], Any] = model.run
    maps, names = model.maps, picture_names(images.files, ".jpg")
    if grad_cam is not None and maps is not None:
        from xraytune.models.grad_cam import overlay  # loads torch

        def run(pixels: Pixels) -> list[tuple[Any, ...]]:
            return [*zip(model.run(pixels), pixels, maps(pixels), strict=True)]

    def use(file: str, output: Any) -> tuple[str, Any]:
        if grad_cam is None:
            return file, output
        row, pixels, saliency = output
        write_bytes(grad_cam / names[file], overlay(pixels, saliency), durable=False)
        return file, row

    results, broken = map_outputs(run, model.record.input_format, images, use, title="classifying images")
    used, rows = zip(*results, strict=True)
    return used, np.stack(rows), broken


def predictions_csv(
    class_names: Sequence[str],
    files: Sequence[str],
    probabilities: Floats,
    predicted: Labels,
    *,
    threshold: float | None = None,
    **about: Sequence[str],
) -> str:
    """Return the table: `file`, the columns of `about`, `probability_CLASS` per class, `threshold` if given, `predicted`."""
    columns: dict[str, Sequence[PurePosixPath | str | float]] = {
        "file": [PurePosixPath(file) for file in files],
        **about,
    }
    columns |= {f"probability_{name}": probabilities[:, label].tolist() for label, name in enumerate(class_names)}
    columns |= {} if threshold is None else {"threshold": [threshold] * len(files)}
    columns["predicted"] = [class_names[label] for label in predicted]
    return csv_table([*columns], zip(*columns.values(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Predictions, and a summary of them.

    Attributes:
        counts: Images predicted as each class.
        positive: The positive class of two; None with more classes.
        threshold: Its probability from which an image is positive; None with more classes.
        predictions: For each image its `file`, `predicted` class and `probabilities` by class.
        broken: Images that were left out.
    """

    path: Path
    images: int
    counts: dict[str, int]
    positive: str | None
    threshold: float | None
    predictions: tuple[dict[str, Json], ...]
    broken: tuple[BrokenImage, ...]


def predict(
    model: Path,
    images: Path,
    *,
    out: Path,
    runtime: Literal["torch", "onnx"] = "torch",
    grad_cam: Path | None = None,
    skip_broken: bool = False,
    sensitivity: float | None = None,
    on_progress: Progress = ignore_progress,
) -> Predicted | PredictedMasks:
    """Predict classes, written to a CSV file (see `predictions_csv`), or masks.

    Args:
        model: Model bundle, or an ONNX file of `export_onnx`.
        images: One image, or a folder with images at any depth; `file` is relative to it, sorted.
        out: CSV file to write, or for a segmenter the folder to create (`export/segmentation.py`).
        runtime: `onnx` runs the bundle's `model.onnx` in onnxruntime, without PyTorch; an ONNX file always runs there.
        grad_cam: Folder to create, with each image next to the Grad-CAM map of its predicted class.
        skip_broken: Leave out broken images.
        sensitivity: Use the threshold that reaches this sensitivity on validation images; for classifiers with two classes.
        on_progress: Called with progress.

    Raises:
        ConfigError: `out` or `grad_cam` exists, no threshold reaches `sensitivity`, or the model has no Grad-CAM.
        ArtifactError: The bundle or ONNX file is missing or damaged.
        DataError: There are no images, or broken ones, or the folder contains pairs.
        MachineError: The packages of a segmenter, or onnxruntime, are not installed.
    """
    for path in filter(None, (out, grad_cam)):
        require_new(path)
    predictor = _predictor(model, runtime)
    record = predictor.record
    threshold = threshold_of(record, sensitivity)
    if grad_cam is not None and predictor.maps is None:
        what = "Grad-CAM needs PyTorch and a classifier with feature maps"
        raise ConfigError(Problem(what, model, "leave out --grad-cam; a segmenter writes overlays anyway"))
    if len(pairs := pair_folders(images)) == 2:
        what = "this is a folder of pairs, and masks are not X-rays"
        raise DataError(Problem(what, images, f"give only its images: {pairs['images']}"))
    root, files = images.parent, [images.name]
    if not images.is_file():
        root, files = images, [file.relative_to(images).as_posix() for file in list_images(images)]
    given = ImageFiles(root=root, files=files, skip_broken=skip_broken, on_progress=on_progress)
    if record.task == "segmentation":
        return predict_masks(predictor, given, out, threshold=threshold)
    names = record.class_names
    shown = threshold if len(names) == 2 else None
    with new_folder(grad_cam) if grad_cam else nullcontext() as folder:
        used, probabilities, broken = predict_images(predictor, given, grad_cam=folder)
        labels = predicted_classes(probabilities, positive=names.index(record.positive_name), threshold=threshold)
        write_text(out, predictions_csv(names, used, probabilities, labels, threshold=shown))
    counts = np.bincount(labels, minlength=len(names)).tolist()
    return Predicted(
        path=out,
        images=len(labels),
        counts=dict(zip(names, counts, strict=True)),
        positive=None if shown is None else record.positive,
        threshold=shown,
        predictions=tuple(
            {"file": file, "predicted": names[label], "probabilities": dict(zip(names, row, strict=True))}
            for file, row, label in zip(used, probabilities.tolist(), labels, strict=True)
        ),
        broken=broken,
    )


def _predictor(model: Path, runtime: Literal["torch", "onnx"]) -> Predictor:
    if runtime == "onnx" or model.is_file():
        return open_onnx(model if model.is_file() else model / ONNX_FILE)
    from xraytune.pipeline.bundle import open_bundle  # loads torch, which onnxruntime does not need

    return open_bundle(model).predictor()
