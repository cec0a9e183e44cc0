"""Measure how well the classes of a data folder can be separated from whole images, from lungs alone, and without lungs.

The classifier is a logistic regression on 16 x 16 px, trained on the train side and scored on val-A and val-B together.
Where it does well without the lungs, so can any network: the images themselves, not the network, are in question.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from xraytune.config.load import data_settings
from xraytune.config.settings import DataSettings, ViewName
from xraytune.data.index import ImageIndex, read_folder
from xraytune.data.pixels import open_pixels, stored_files
from xraytune.data.split import split_by_patient
from xraytune.errors import ConfigError, Problem
from xraytune.generators.train import resize_pixels
from xraytune.metrics.classification import auroc
from xraytune.metrics.placements import auroc_interval, effective_patients
from xraytune.pipeline.prepare import store_images
from xraytune.pipeline.view import View, read_view
from xraytune.records import Progress, ignore_progress

SHORTCUTS_FILE = "shortcuts.json"
NOTABLE_AUROC = 0.6
_SIDE_PX, _C = 16, 0.1
_SHOWN = {
    "full": "whole images",
    "lungs": "lungs only",
    "outlines": "outlines of the lungs only",
    "lungs_erased": "lungs erased",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewAuroc:
    """The AUROC of one view on val-A and val-B, with its 95 % interval over patients."""

    name: str
    auroc: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.auroc:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LungShortcut:
    """How separable the classes of a folder are with and without lungs.

    Attributes:
        views: Whole images, lungs, their outlines, and everything but the lungs.
        images: Those scored, of so many `patients`.
        implausible: Images, also of the train side, without a plausible mask.
    """

    views: tuple[ViewAuroc, ...]
    images: int
    patients: int
    implausible: int

    def __str__(self) -> str:
        last = self.views[-1]
        start = f"A logistic regression on 16 x 16 px reaches an AUROC of {last} without the lungs"
        if last.low < NOTABLE_AUROC:
            return f"{start}: no clear sign that the classes are separable without them."
        return (
            f"{start}: the benchmark itself is in question, because a high score on it says little about reading lungs."
        )


def inspect_lungs(
    folder: Path | DataSettings, segmenter: Path, *, on_progress: Progress = ignore_progress
) -> LungShortcut:
    """Measure how separable the classes of a data folder are with and without the lungs, without a cache.

    Args:
        folder: The folder, a YAML file with a `data:` block, or settings with its path, classes and patients.
        segmenter: A model of `train`, for the task `segmentation`, which outlines lungs.
        on_progress: Called with the number of images read.

    Raises:
        ConfigError: The folder has pairs of images and masks, and no classes.
        DataError: The folder is invalid, the segmenter finds no lungs, or a class has too few patients.
        ArtifactError: The segmenter is missing, damaged or another kind of model.
    """
    settings = data_settings(folder, DataSettings(path=folder)) if isinstance(folder, Path) else folder
    index = read_folder(settings, on_progress=on_progress)
    if len(index.class_names) < 2:
        what = "pairs of images and masks have no classes to separate"
        raise ConfigError(Problem(what, "--segmenter", "leave it out"))
    with TemporaryDirectory() as cache:
        data = settings.model_copy(update={"segmenter": segmenter})
        return measure_shortcut(index, data, Path(cache), on_progress=on_progress)


def measure_shortcut(
    index: ImageIndex, data: DataSettings, cache: Path, *, on_progress: Progress = ignore_progress
) -> LungShortcut:
    """Measure the AUROC of each view of a data folder with `data.segmenter`. Broken images are left out.

    Raises:
        DataError: The segmenter finds no lungs, or a class has too few patients; or what `open_segmenter` raises.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def store_of(view: ViewName, like: View | None = None) -> Path:
        settings = data.model_copy(update={"view": view})
        return store_images(index.root, index.images, settings, of_study=like, cache=cache, on_progress=on_progress)

    lungs = store_of("lungs")
    files = {*stored_files(lungs).files}
    images = [image for image in index.images if image.file in files]
    view = read_view(lungs)
    assert view is not None, "there are unbroken images"
    seen = open_pixels(lungs)
    thumbnails = {
        "full": _thumbnails(open_pixels(store_of("full"))),
        "lungs": _thumbnails(seen),
        "outlines": _thumbnails(np.where(seen > 0, np.uint8(255), np.uint8(0))),
        "lungs_erased": _thumbnails(open_pixels(store_of("lungs_erased", view))),
    }
    split = split_by_patient(images, data.split, data.train_patients, parts=index.parts)
    train, held_out = (np.array(sorted(side)) for side in (split.train, [*split.val_a, *split.val_b]))
    labels, patients = np.array([image.label for image in images]), [images[row].patient for row in held_out]
    effective = effective_patients(labels[held_out], patients, index.positive)

    def of_view(name: str) -> ViewAuroc:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=_C, class_weight="balanced", max_iter=1000))
        model.fit(thumbnails[name][train], labels[train])
        probabilities = model.predict_proba(thumbnails[name][held_out])
        value = auroc(labels[held_out], probabilities, positive=index.positive)
        low, high = auroc_interval(value, effective)
        return ViewAuroc(name=_SHOWN[name], auroc=value, low=low, high=high)

    return LungShortcut(
        views=tuple(map(of_view, thumbnails)),
        images=len(held_out),
        patients=len({*patients}),
        implausible=view.implausible,
    )


def read_shortcut(file: Path) -> LungShortcut | None:
    """Read a study's record; None if it has none. Raise ValueError if it is damaged."""
    return TypeAdapter(LungShortcut).validate_json(file.read_bytes()) if file.exists() else None


def _thumbnails(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return resize_pixels(pixels, _SIDE_PX).reshape(len(pixels), -1)
