"""Show only the lungs of stored images, or everything but the lungs (`data.view`), for everything that reads the store.

A segmenter finds the lungs. Opacified lungs look smaller to it, so the outline of a mask gives the class away. Therefore
`lungs_erased` blacks out one box, the same for all images: where 2 % or more of the plausible masks have a lung. `lungs`
blacks out all but the image's own mask, slightly widened; the mean mask takes the place of an implausible one.

Source of erasing the lungs: Maguolo & Nanni 2021, "A critic evaluation of methods for COVID-19 automatic detection from
X-ray images", with a black square at the centre.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy.ndimage import maximum_filter  # type: ignore[import-untyped]

from xraytune.config.settings import DataSettings, ViewName
from xraytune.config.space import require_packages
from xraytune.data.pixels import PIXELS_FILE, stored_files
from xraytune.errors import ConfigError, DataError, Problem, StudyError
from xraytune.files import write_json
from xraytune.records import Compute, Progress

if TYPE_CHECKING:
    from xraytune.pipeline.bundle import Bundle

VIEW_VERSION = 1
_VIEW_FILE, _BATCH = "view.json", 64
_MIN_AREA, _MAX_AREA, _MIN_SMALLER_HALF, _MIN_PLAUSIBLE = 0.1, 0.6, 0.25, 0.5
_IN_BOX, _IN_MEAN = 0.02, 0.5
"""The shares of masks that cover a pixel of the erased box, and of the mean mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was shown of the images of a folder.

    Attributes:
        segmenter_sha256: See `segmenter_hash`.
        box: First and last row and column, in px, of the box that has the lungs; the last ones are excluded.
        implausible: How many of the `images` have no plausible mask.
    """

    name: ViewName
    segmenter_sha256: str
    box: tuple[int, int, int, int]
    images: int
    implausible: int

    def __str__(self) -> str:
        top, bottom, left, right = self.box
        black, masks = "all but the lungs is", "were replaced by the mean of the others"
        if self.name == "lungs_erased":
            black, masks = f"rows {top} to {bottom} and columns {left} to {right} are", "were ignored"
        where = f"with data.view: {self.name}, {black} black in {self.images:,} images"
        return f"{where}; {self.implausible:,} implausible masks {masks}"


def read_view(store: Path) -> View | None:
    """Return the view of a pixel store; None if it has whole images."""
    file = store / _VIEW_FILE
    return TypeAdapter(View).validate_json(file.read_bytes()) if file.exists() else None


def require_whole_images(data: DataSettings, what: str) -> None:
    """Refuse (ConfigError) a view for a model or generator, which would need the segmenter wherever it is used."""
    if data.view != "full":
        problem = f"data.view: {data.view} is for studying where a classifier looks; {what} needs whole images"
        raise ConfigError(Problem(problem, "data.view", "--set data.view=full"))


def open_segmenter(data: DataSettings, of_study: View | None = None) -> Bundle:
    """Open `data.segmenter`, which must be that of the study's view, if given.

    Raises:
        ArtifactError: It is missing or damaged.
        ConfigError: It is a classifier.
        StudyError: It has changed since the study began.
        MachineError: The package for segmenters is not installed.
    """
    from xraytune.pipeline.bundle import open_bundle  # loads torch

    assert data.segmenter is not None, "a view has a segmenter"
    bundle = open_bundle(data.segmenter)
    if bundle.record.task != "segmentation":
        what = f"this model is a classifier of {' and '.join(bundle.record.class_names)}; it cannot find lungs"
        fix = "give a model of `xraytune train` with task: segmentation"
        raise ConfigError(Problem(what, data.segmenter, fix))
    if of_study and of_study.segmenter_sha256 != segmenter_hash(bundle):
        what = "the segmenter of data.view has changed since the study began"
        raise StudyError(Problem(what, data.segmenter, "restore it, or start a study with another name"))
    require_packages("segmentation")
    return bundle


def segmenter_hash(segmenter: Bundle) -> str:
    """Return the SHA-256 of what the masks of a segmenter depend on: its network, threshold and input format."""
    record = segmenter.record
    return hashlib.sha256(repr((segmenter.model_sha256, record.threshold, record.input_format)).encode()).hexdigest()


def apply_view(
    store: Path, name: ViewName, segmenter: Bundle, of_study: View | None, root: Path, *, on_progress: Progress
) -> None:
    """Change the images of a pixel store that is being built to a view, and write `view.json`.

    The same box is erased from images of elsewhere as from those of the study. `root` is their folder, for messages.

    Raises:
        DataError: The segmenter finds plausible lungs in fewer than half of the images.
    """
    if not stored_files(store).files:
        return
    # Writing to the map needs no space on the disk: the file is complete.
    pixels: NDArray[np.uint8] = np.load(store / PIXELS_FILE, mmap_mode="r+")
    count, frequency, implausible = len(pixels), np.zeros(pixels.shape[1:]), list[int]()
    if name == "lungs" or of_study is None:
        for start, masks in _find_lungs(segmenter, pixels, on_progress):
            are_good, part = are_plausible(masks), pixels[start : start + len(masks)]
            frequency += masks[are_good].sum(axis=0)
            implausible += (start + np.flatnonzero(~are_good)).tolist()
            if name == "lungs":
                part[are_good] = _only_lungs(part[are_good], masks[are_good])
        if count - len(implausible) < _MIN_PLAUSIBLE * count:
            what = (
                f"the segmenter {segmenter.path} finds no plausible lungs in {len(implausible):,} of {count:,} images"
            )
            fix = "train a segmenter on images like these, or set data.view=full"
            raise DataError(Problem(what, root, fix))
        frequency /= count - len(implausible)
    box = of_study.box if of_study else _box(frequency >= _IN_BOX)
    if name == "lungs":
        pixels[implausible] = _only_lungs(pixels[implausible], (frequency >= _IN_MEAN)[None])
    else:
        pixels[:, box[0] : box[1], box[2] : box[3]] = 0
    view = View(
        name=name, segmenter_sha256=segmenter_hash(segmenter), box=box, images=count, implausible=len(implausible)
    )
    write_json(store / _VIEW_FILE, asdict(view))


def are_plausible(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether masks [n, S, S] can be lungs, bool [n]: 10 to 60 % of the image, and some in each half of it.

    The smaller of the left and right half must have a quarter of the area of the larger one.
    """
    areas, middle = masks.mean(axis=(1, 2)), masks.shape[2] // 2
    halves = np.stack([masks[:, :, :middle].sum(axis=(1, 2)), masks[:, :, middle:].sum(axis=(1, 2))])
    are_balanced = halves.min(axis=0) >= _MIN_SMALLER_HALF * halves.max(axis=0)
    return np.asarray((areas >= _MIN_AREA) & (areas <= _MAX_AREA) & are_balanced)


def _find_lungs(
    segmenter: Bundle, pixels: NDArray[np.uint8], on_progress: Progress
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the first row and the masks, [n, S, S], of consecutive images of a pixel store [N, S, S], on the CPU."""
    import torch
    import torch.nn.functional as F

    threads = torch.get_num_threads()
    cpu = Compute(device="cpu", threads=threads, precision="float32", generator_threads=threads)
    run, threshold = segmenter.predictor(cpu).run, segmenter.record.threshold
    for start in range(0, len(pixels), _BATCH):
        found = torch.from_numpy(run(np.array(pixels[start : start + _BATCH])))[:, None]
        yield start, (F.interpolate(found, size=pixels.shape[1:], mode="bilinear")[:, 0] >= threshold).numpy()
        on_progress("finding the lungs", min(start + _BATCH, len(pixels)), len(pixels))


def _only_lungs(images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return images [n, S, S], black outside of their masks [n, S, S], which are widened by 1/32 of the side."""
    margin_px = images.shape[2] // 32
    widened = maximum_filter(masks.astype(np.uint8), size=2 * margin_px + 1, axes=(1, 2))
    return np.where(widened, images, np.uint8(0))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the first and last row and column of a mask, [S, S]; see `View.box`."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
