"""Prepare a data folder for the trials of a study: split it by patient, decode each image once.

    index = read_index(...); store = store_images(...); sides = split_by_patient(...)

`SplitData` is written to the study as the readable file `split.json`. Trials read it from there and
use the pixel store (`side_image_set`), never the data folder. The test folder stays sealed:
only `index.images` are decoded and recorded. Of `index.test`, only hashes are recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from xraytune.base.artifacts import is_intact, releases
from xraytune.base.errors import (
    ArtifactError,
    DataError,
    StudyError,
    add_notes,
    counted,
    join_names,
)
from xraytune.base.files import read_json, with_checksum, without_checksum, write_json
from xraytune.base.records import Compute, Progress, frozen, ignore_progress
from xraytune.data.decoding import BrokenImage, Resize
from xraytune.data.file_names import OLDEST_SETS
from xraytune.data.image_set import ImageSet
from xraytune.data.images import LENDERS, RECORDED, ImageFile, ImageIndex, ImageTable, SideName
from xraytune.data.index import read_index
from xraytune.data.pixels import (
    open_masks,
    open_pixels,
    require_unbroken,
    store_images,
    store_sha256,
    stored_files,
)
from xraytune.data.split import part_notes, split_by_patient
from xraytune.space.data_settings import DataSettings
from xraytune.space.settings import Settings
from xraytune.space.strict_model import StrictModel
from xraytune.space.task_settings import TaskName

HELD_OUT = ("val_a", "val_b", "test")
"""The sides that nothing is trained on."""
_IMAGES = ("images", "unused", "test")
"""The fields of `SplitData` that are written as columns."""


@frozen
class StoredPixels:
    """The decoded images in one size; the fields are as in `SplitData`."""

    image_size_px: int
    pixels: str
    pixels_sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitData:
    """The images that all trials of a study share, and their split.

    Attributes:
        class_names: The classes, in the order of the labels.
        findings: The names of the findings; empty for classes and masks.
        positive: The label that sensitivity refers to; meaningless unless there are two classes.
        pixels: The pixel artifact, relative to the cache.
        pixels_sha256: Hash of the artifact's pixels and masks; another release of the decoder may
            produce other pixels from the same files.
        test_fingerprint: The `content_fingerprint` of the held-out test folder; None if there is
            none.
        images: All images that are trained on, validated on or scored, in the order of the index.
        unused: The other images of the folder, except those of its test folder.
        test: The images of the test folder, of which only names, labels and hashes are known.
        has_masks: Whether the pixel artifact has a mask of each image.
        left_out_sites: The site that each draw of a confirmation leaves out; empty if no site is
            left out.
        draws: The patients of each draw, if other replicates are scored on them. They are on side
            `test`, and may be in several draws.
        other_sizes: The same images, in the same rows, in the other sizes that trials use.
        name_sets: The public sets whose file names gave the patients (data/file_names.py).
    """

    class_names: tuple[str, ...]
    positive: int
    image_size_px: int
    resize: Resize
    pixels: str
    pixels_sha256: str
    test_fingerprint: str | None
    images: tuple[ImageFile, ...]
    has_masks: bool = False
    findings: tuple[str, ...] = ()
    unused: tuple[ImageFile, ...] = ()
    test: tuple[ImageFile, ...] = ()
    left_out_sites: tuple[str, ...] = ()
    draws: tuple[tuple[str, ...], ...] = ()
    other_sizes: tuple[StoredPixels, ...] = ()
    name_sets: tuple[str, ...] = OLDEST_SETS

    @property
    def outputs(self) -> tuple[str, ...]:
        """The findings or classes that a network has outputs for."""
        return self.findings or self.class_names

    @property
    def test_contents(self) -> tuple[str, ...]:
        """The `short_sha256` of each image of the test folder, sorted."""
        return tuple(sorted(image.short_sha256 for image in self.test))

    def index(self, root: Path) -> ImageIndex:
        """Return the recorded images as the index of their folder, which is not read."""
        test = (replace(image, part="test") for image in self.test)
        return ImageIndex(
            root=root,
            class_names=self.class_names,
            all_images=ImageTable([*self.images, *self.unused, *test]),
            findings=self.findings,
            positive=self.positive,
            name_sets=self.name_sets,
        )

    @property
    def task(self) -> TaskName:
        """The task that the images are for."""
        if self.has_masks:
            return "segmentation"
        return "findings" if self.findings else "classification"

    def side(self, name: SideName) -> ImageTable:
        """Return the images on one side of the split, in the order of the index."""
        return ImageTable(image for image in self.images if image.side == name)

    @cached_property
    def sizes(self) -> Mapping[int, SplitData]:
        """The images as a study of one size alone would have them, by the size in pixels."""
        one_size = replace(self, other_sizes=())
        other_sizes = {
            stored.image_size_px: replace(one_size, **asdict(stored)) for stored in self.other_sizes
        }
        return {self.image_size_px: one_size, **other_sizes}

    def with_sides(self, sides: Sequence[SideName]) -> SplitData:
        """Return the images on other sides, one for each image."""
        pairs = zip(self.images, sides, strict=True)
        return replace(self, images=tuple(replace(image, side=side) for image, side in pairs))

    @cached_property
    def _replicates(self) -> dict[int, SplitData]:
        return {}

    def of_draw(self, draw: int | None) -> SplitData:
        """Return a replicate's images, whose train side is its draw of unused patients.

        Of a site that the draw leaves out, only test images are used. Without a draw, the images
        are not changed.
        """
        if draw is None:
            return self
        if draw not in self._replicates:
            left_out = self.left_out_sites[draw] if self.left_out_sites else None
            drawn_patients = {*self.draws[draw]} if self.draws else set()
            images = []
            for image in self.images:
                side = image.side
                if image.site == left_out and side != "test":
                    side = "unused"
                if side == f"draw_{draw}" or image.patient in drawn_patients:
                    side = "train"
                elif side == "train" or side.startswith("draw_"):
                    side = LENDERS
                images.append(replace(image, side=side))
            self._replicates[draw] = replace(self, images=tuple(images))
        return self._replicates[draw]

    @property
    def train_counts(self) -> tuple[int, ...]:
        """The number of training images of each class."""
        labels = self.side("train").labels
        return tuple(np.bincount(labels, minlength=len(self.class_names)).tolist())

    @property
    def train_patient_count(self) -> int:
        """The number of patients on the train side."""
        return len(set(self.side("train").patients))

    @cached_property
    def train_fingerprint(self) -> str:
        """A hash of the train side, in order; a GAN and frozen features depend on it."""
        train = ((image.content, image.label) for image in self.side("train"))
        return _hash([self.resize, *train])

    @property
    def fingerprint(self) -> str:
        """A hash of all sides; a study with other images or another split is another study."""
        contents = ((image.content, image.label, image.side) for image in self.images)
        return _hash([self.resize, *contents])

    def steps_per_epoch(self, settings: Settings) -> int:
        """Return the optimiser steps per epoch.

        The default is one pass over the real images at 32 per step, and at least 8 steps. A final
        training on more images than its trial takes proportionally more steps.
        """
        images = sum(self.train_counts)
        steps = settings.budget.steps_per_epoch
        origin = settings.exported_from
        if steps is None:
            return max(8, -(-images // 32))
        if origin and origin.images:
            return -(-steps * images // origin.images)
        return steps


@frozen
class RunContext:
    """The context that all work on the images of a study shares, besides its settings.

    Attributes:
        compute: Device, threads and precision; `configure_torch` has set them.
        opened: Folders of extra images by their settings; each is read once.
    """

    prepared: SplitData
    cache: Path
    compute: Compute
    on_progress: Progress = ignore_progress
    opened: dict[StrictModel, ImageSet] = field(default_factory=dict, compare=False)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def prepare(
    settings: Settings,
    cache: Path,
    *,
    sizes_px: Sequence[int] = (),
    seen_sha256: Collection[str] = (),
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
) -> tuple[SplitData, tuple[str, ...]]:
    """Index, decode and split the images of `settings.data`, in all sizes that trials use.

    The default size is `data.image_size`. Returns the record, and warnings for the user. Patients
    with images in `seen_sha256` are on no validation side.

    Raises DataError if the folder, its labels or an image is invalid; `skip_broken` leaves broken
    images out.
    """
    pairs = settings.task == "segmentation"
    index = read_index(settings.data, pairs=pairs, on_progress=on_progress)
    return prepare_index(
        index,
        settings.data,
        cache,
        sizes_px=sizes_px,
        seen_sha256=seen_sha256,
        skip_broken=skip_broken,
        on_progress=on_progress,
    )


def prepare_index(
    index: ImageIndex,
    data: DataSettings,
    cache: Path,
    *,
    sizes_px: Sequence[int] = (),
    seen_sha256: Collection[str] = (),
    skip_broken: bool = False,
    left_out: Collection[str] = (),
    on_progress: Progress = ignore_progress,
) -> tuple[SplitData, tuple[str, ...]]:
    """Decode and split a folder that has already been indexed; see `prepare`.

    Files in `left_out` may be broken, even without `skip_broken`.
    """
    stores = {}
    for size_px in sizes_px or (data.image_size,):
        sized = data.model_copy(update={"image_size": size_px})
        store = store_images(index.root, index.images, sized, cache=cache, on_progress=on_progress)
        if not skip_broken:
            require_unbroken(store, index.root, left_out=left_out)
        stores[size_px] = store
    _require_equal_rows(stores, index.root)
    store = next(iter(stores.values()))
    files, broken = stored_files(store)
    row_of = {file: row for row, file in enumerate(files)}
    images = ImageTable(image for image in index.images if image.file in row_of)
    _require_classes(index, images, broken)
    if all(row.min() == row.max() for row in open_pixels(store)):
        what = (
            f"all {len(files)} images are blank: each has a single grey, so nothing can be learnt"
        )
        fix = "look at the files, or change data.shift" if data.shift else "look at the files"
        raise DataError(what, index.root, fix)
    seen_patients = patients_seen(index.images, seen_sha256)
    with add_notes(index.warnings):
        sides = split_by_patient(
            images, data.split, data.train_patients, seen_patients=seen_patients
        )
    recorded = [
        replace(image, side=side, row=row_of[image.file])
        for image, side in zip(images, sides, strict=True)
    ]
    first, *further = (
        StoredPixels(
            image_size_px=size_px,
            pixels=str(store.relative_to(cache)),
            pixels_sha256=store_sha256(store),
        )
        for size_px, store in stores.items()
    )
    prepared = SplitData(
        class_names=index.class_names,
        positive=index.positive,
        **asdict(first),
        other_sizes=tuple(further),
        resize=data.resize,
        has_masks=any(image.masks for image in images),
        test_fingerprint=index.test_fingerprint,
        findings=index.findings,
        name_sets=index.name_sets,
        images=tuple(image for image in recorded if image.side != "unused"),
        unused=tuple(image for image in recorded if image.side == "unused"),
        test=index.test,
    )
    notes = [*part_notes(index), *index.warnings]
    notes += [f"left out: {image.file}: {image.reason}" for image in broken]
    if seen_sha256:
        own_count = sum(image.sha256 in seen_sha256 for image in index.all_images)
        notes.append(
            f"generators or encoders have seen {len(seen_sha256):,} images, {own_count:,} of them "
            f"of this study: {counted(len(seen_patients), 'patient')} on no validation or test "
            "side, and trained on last"
        )
    return prepared, tuple(notes)


def _require_classes(index: ImageIndex, images: ImageTable, broken: Iterable[BrokenImage]) -> None:
    """Refuse (DataError) a folder that has only broken images of a class."""
    labels = {*images.labels.tolist()}
    lost = [image for image in index.images if image.label not in labels]
    if lost:
        names = sorted({index.class_names[image.label] for image in lost})
        lost_files = {file for image in lost for file in (image.file, *image.masks)}
        reasons = [f"{image.file}: {image.reason}" for image in broken if image.file in lost_files]
        raise DataError(
            f"without broken images, there is none of {join_names(names)} "
            f"({join_names(reasons, 3)})",
            index.root,
            "repair some of them",
        )


def _require_equal_rows(stores: Mapping[int, Path], root: Path) -> None:
    """Refuse (DataError) an image that is broken in one of several sizes, as a small mask may be.

    Otherwise, the same row would belong to different images in different sizes.
    """
    stored_names = [frozenset(stored_files(store)[0]) for store in stores.values()]
    differing = frozenset().union(*stored_names) - stored_names[0].intersection(*stored_names)
    if differing:
        sizes = join_names([f"{size_px} px" for size_px in stores])
        raise DataError(
            f"of {sizes}, some sizes lack {join_names(sorted(differing), 3)}",
            root,
            "remove these images, or use a single size",
        )


def patients_seen(images: Iterable[ImageFile], seen_sha256: Collection[str]) -> set[str]:
    """Return the patients who have an image in `seen_sha256`."""
    return {image.patient for image in images if image.sha256 in seen_sha256}


def unseen_test(index: ImageIndex, seen_sha256: Collection[str]) -> ImageTable:
    """Return the test folder's images of the patients who have no image in `seen_sha256`."""
    seen_patients = patients_seen((*index.images, *index.test), seen_sha256)
    return index.test.without(seen_patients)


def restore_pixels(
    settings: Settings, prepared: SplitData, cache: Path, *, on_progress: Progress = ignore_progress
) -> None:
    """Decode a study's images again if the cache has lost or damaged their pixels.

    Raises StudyError if the images have changed or Pillow decodes them differently, and DataError
    if they cannot be read.
    """
    for size_px, sized in prepared.sizes.items():
        store = cache / sized.pixels
        if is_intact(store) and store_sha256(store) == sized.pixels_sha256:
            continue
        data = settings.of_size(size_px).data
        index = read_index(
            data,
            pairs=prepared.has_masks,
            name_sets=prepared.name_sets,
            on_progress=on_progress,
        )
        again = store_images(index.root, index.images, data, cache=cache, on_progress=on_progress)
        if again == store and store_sha256(store) == sized.pixels_sha256:
            continue
        what = "the cache has lost the study's pixels, and the images changed since"
        if again == store:
            pillow = releases("pillow")["pillow"]
            what = f"Pillow {pillow} decodes the images differently from the study"
        raise StudyError(
            what,
            store,
            "restore the images, or install the Pillow of its environment.json and remove this "
            "folder; or give the cache of the search (--cache)",
        )


def side_image_set(side_name: SideName, prepared: SplitData, cache: Path) -> ImageSet:
    """Return one side of the split.

    Raises ArtifactError if the pixels are missing or damaged.
    """
    store = cache / prepared.pixels
    if not is_intact(store):
        raise ArtifactError(
            "the decoded images are missing or damaged",
            store,
            "run the study's `xraytune search` command again: it decodes the images again",
        )
    side = prepared.side(side_name)
    rows = np.array([image.row for image in side], dtype=np.int64)
    return ImageSet(
        name="real" if side_name == "train" else side_name,
        pixels=open_pixels(store),
        rows=rows,
        targets=side.targets,
        inputs={
            "pixels": prepared.pixels,
            "content": prepared.pixels_sha256,
            "rows": rows.tolist(),
        },
        masks=open_masks(store),
    )


def write_prepared(prepared: SplitData, path: Path) -> None:
    """Write `split.json`, with the images as columns."""
    content = {field.name: getattr(prepared, field.name) for field in fields(prepared)}
    content["other_sizes"] = [asdict(stored) for stored in prepared.other_sizes]
    for name in _IMAGES:
        images = content[name]
        content[name] = {
            column: [getattr(image, column) for image in images] for column in RECORDED
        }
    write_json(path, with_checksum(content))


def read_prepared(path: Path) -> SplitData:
    """Read `split.json`; raise ValueError if it is malformed."""
    try:
        content = without_checksum(read_json(path))
        for name in content.keys() & {*_IMAGES}:
            columns = content[name]
            rows = zip(*columns.values(), strict=True)
            content[name] = [dict(zip(columns, row, strict=True)) for row in rows]
    except (AttributeError, TypeError) as error:
        raise ValueError(f"not a split: {error}") from error
    return TypeAdapter(SplitData).validate_python(content, extra="forbid")
