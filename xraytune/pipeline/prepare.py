"""From a data folder to what every trial of a study shares: which image is on which side, and its decoded pixels.

    index = read_index(...); pixels = decoded once; split = split_by_patient(...)

`Prepared` is written to the study as `split.json`, readable by a person; trials load it from there and never look at the
data folder again. It holds names and hashes of the sealed test folder's content, never its pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, TypeAdapter

from xraytune.config.settings import DataSettings, Settings
from xraytune.cores import cpu_count
from xraytune.data.decoding import Resize
from xraytune.data.index import ImageFile, ImageIndex, few_patients_problems, read_index
from xraytune.data.pixels import broken_images_error, open_pixels, store_pixels, stored_files
from xraytune.data.split import split_by_patient
from xraytune.errors import ArtifactError, DataError, Problem, StudyError
from xraytune.files import read_json, write_json
from xraytune.pipeline.artifacts import build_once, content_sha256, discard, is_whole, releases
from xraytune.records import Progress, ignore_progress

PIXELS_STAGE = "pixels-2"
_PIXELS_FILE = "pixels.npy"
_REPAIR = "repair some of them"
SideName = Literal["train", "val_a", "val_b"]
_Index = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """One image of a study: its file below the data folder, and its row in the pixel store."""

    file: str
    patient: str
    label: _Index
    side: Annotated[SideName, Field(validation_alias=AliasChoices("side", "part"))]  # earlier files say part
    row: _Index
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side of the split: rows of the pixel store, int64 [n]; labels, int64 [n]; each image's patient."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    patients: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What all trials of a study share.

    Attributes:
        class_names: In the order of the labels.
        positive: The label that sensitivity is about.
        image_size_px: Side of the stored pixels.
        resize: How the images were made square.
        pixels: The pixel artifact, relative to the cache.
        pixels_sha256: Its content, which a decoder of another version may not make again; an earlier version has none.
        test_fingerprint: Content of the sealed test folder; None where there is none.
        images: All images but the test folder's, in the order of the index.
    """

    class_names: tuple[str, ...]
    positive: _Index
    image_size_px: int
    resize: Resize = "squash"
    pixels: str
    pixels_sha256: str | None = None
    test_fingerprint: str | None
    images: tuple[PreparedImage, ...]

    def side(self, name: SideName) -> Side:
        """One side of the split, in the order of the index."""
        chosen = [image for image in self.images if image.side == name]
        return Side(
            rows=np.array([image.row for image in chosen], dtype=np.int64),
            labels=np.array([image.label for image in chosen], dtype=np.int64),
            patients=tuple(image.patient for image in chosen),
        )

    @property
    def train_fingerprint(self) -> str:
        """Content of the train side, in its order: what a GAN and the frozen features of real images depend on."""
        return _hash([self.resize, *((image.sha256, image.label) for image in self.images if image.side == "train")])

    @property
    def fingerprint(self) -> str:
        """Content of all sides: a study whose images or split changed is another study."""
        return _hash([self.resize, *((image.sha256, image.label, image.side) for image in self.images)])

    def steps_per_epoch(self, settings: Settings) -> int:
        """Optimiser steps of an epoch: one pass of 32 real images a step, at least 8, unless the settings say."""
        count = sum(image.side == "train" for image in self.images)
        return settings.budget.steps_per_epoch or max(8, -(-count // 32))


def prepare(
    settings: Settings, cache: Path, *, skip_broken: bool = False, on_progress: Progress = ignore_progress
) -> tuple[Prepared, tuple[str, ...]]:
    """Index, decode and split the images of `settings.data`; gives the record and warnings for the person.

    Raises:
        DataError: Anything wrong with the folder, its labels or an image; `skip_broken` leaves broken images out.
        MachineError: The disk is full.
    """
    index = read_index(settings.data, on_progress=on_progress)
    return prepare_index(index, settings.data, cache, skip_broken=skip_broken, on_progress=on_progress)


def prepare_index(
    index: ImageIndex,
    data: DataSettings,
    cache: Path,
    *,
    skip_broken: bool = False,
    on_progress: Progress = ignore_progress,
) -> tuple[Prepared, tuple[str, ...]]:
    """Decode and split the images of an index, which also knows the sealed test folder; see `prepare`.

    Raises:
        DataError: A broken image; `skip_broken` leaves it out.
        MachineError: The disk is full.
    """
    pixels = store_images(index.root, index.images, data.image_size, data.resize, cache=cache, on_progress=on_progress)
    if not skip_broken:
        require_unbroken(pixels, index.root)
    stored = stored_files(pixels)
    warnings = index.warnings + tuple(f"left out: {image.file}: {image.reason}" for image in stored.broken)
    row_of = {file: row for row, file in enumerate(stored.files)}
    prepared = _split(index, data, row_of, str(pixels.relative_to(cache)))
    return replace(prepared, pixels_sha256=content_sha256(pixels, _PIXELS_FILE)), warnings


def store_images(
    root: Path,
    images: Sequence[ImageFile],
    image_size_px: int,
    resize: Resize,
    *,
    cache: Path,
    on_progress: Progress = ignore_progress,
) -> Path:
    """The artifact of the images' pixels, decoded once: a row for each that is not broken, in order (`stored_files`).

    Raises:
        MachineError: The disk is full, or one is DICOM, and pydicom is not installed.
    """
    files = [image.file for image in images]

    def build(out: Path) -> None:
        store_pixels(root, files, image_size_px, out, workers=cpu_count(), resize=resize, on_progress=on_progress)

    return build_once(
        cache,
        PIXELS_STAGE,
        {
            "files": [[image.file, image.sha256] for image in images],
            "image_size_px": image_size_px,
            "resize": resize,
        },
        build,
        waiting=lambda: on_progress("images, decoded elsewhere", 0, len(files)),
    )


def require_unbroken(store: Path, root: Path, fix: str = "") -> None:
    """Refuse broken images among those stored.

    The artifact is given up, for the next try may read them: from a disk that answers, or with another decoder installed.

    Raises:
        DataError: The images with their reasons.
    """
    if broken := stored_files(store).broken:
        discard(store)
        raise broken_images_error(broken, root, *([fix] if fix else []))


def _split(index: ImageIndex, data: DataSettings, row_of: dict[str, int], pixels: str) -> Prepared:
    usable = tuple(image for image in index.images if image.file in row_of)
    if len(usable) < len(index.images) and (problems := few_patients_problems(index.root, index.class_names, usable)):
        count = len(index.images) - len(usable)
        raise DataError(*problems, Problem(f"{count} broken images were left out", index.root, _REPAIR))
    split = split_by_patient(usable, data.split, data.train_patients)
    side_of: dict[int, SideName] = {
        **dict.fromkeys(split.train, "train"),
        **dict.fromkeys(split.val_a, "val_a"),
        **dict.fromkeys(split.val_b, "val_b"),
    }
    return Prepared(
        class_names=index.class_names,
        positive=index.positive,
        image_size_px=data.image_size,
        resize=data.resize,
        pixels=pixels,
        test_fingerprint=index.test_fingerprint,
        images=tuple(
            PreparedImage(
                file=image.file,
                patient=image.patient,
                label=image.label,
                side=side_of[position],
                row=row_of[image.file],
                sha256=image.sha256,
            )
            for position, image in enumerate(usable)
            if position in side_of
        ),
    )


def missing_images(prepared: Prepared, there: Iterable[PreparedImage | ImageFile]) -> list[str]:
    """The files of a study that are not there, or not with the content that they had."""
    found = {(image.file, image.sha256) for image in there}
    return [image.file for image in prepared.images if (image.file, image.sha256) not in found]


def write_prepared(prepared: Prepared, path: Path) -> None:
    """Write `split.json`."""
    write_json(path, asdict(prepared))


def read_prepared(path: Path) -> Prepared:
    """Read `split.json`.

    Raises:
        ValueError: It is not what a search wrote, or names something outside the folders that it speaks of.
    """
    prepared = TypeAdapter(Prepared).validate_python(read_json(path))
    stage, _, name = prepared.pixels.partition("/")
    if not all(map(is_plain_name, (stage, name, *prepared.class_names))):
        raise ValueError("a name that is a path")
    if not all(
        label < len(prepared.class_names) for label in (prepared.positive, *(image.label for image in prepared.images))
    ):
        raise ValueError("a label without a class")
    return prepared


def is_plain_name(name: str) -> bool:
    """Whether a name from a file, such as a class, can be a file's or a folder's own: it leads nowhere else."""
    return name not in {"", ".", ".."} and not {"/", "\0"} & {*name}


def require_pixels(
    settings: Settings, prepared: Prepared, cache: Path, *, on_progress: Progress = ignore_progress
) -> None:
    """Make sure of a study's pixels: where the cache has lost or damaged them, they are decoded from the same images.

    Raises:
        StudyError: The images changed since, or another Pillow is installed, which decodes them to other pixels.
        DataError: They cannot be read any more.
        MachineError: The disk is full.
    """
    store, content = cache / prepared.pixels, prepared.pixels_sha256
    if is_whole(store) and content in {None, content_sha256(store, _PIXELS_FILE)}:
        return
    again, _ = prepare(settings, cache, skip_broken=True, on_progress=on_progress)
    if replace(again, pixels_sha256=content) != prepared:
        what = "the cache has lost the study's pixels, and the images changed since"
        fix = "put the images back as they were, or give the search's cache (--cache)"
        raise StudyError(Problem(what, settings.data.path, fix))
    if content not in {None, again.pixels_sha256}:
        what = f"Pillow {releases('pillow')['pillow']} decodes the images to other pixels than the study's"
        fix = "install the Pillow of its environment.json and remove this folder, or give the search's cache (--cache)"
        raise StudyError(Problem(what, store, fix))


def pixels_inputs(store: Path) -> dict[str, str]:
    """What is made from the images of a pixel artifact depends on: its name, and what the decoder made of the files."""
    return {"pixels": store.name, "content": content_sha256(store, _PIXELS_FILE)}


def training_pixels(prepared: Prepared, cache: Path) -> NDArray[np.uint8]:
    """The pixel store, uint8 [N, S, S], memory-mapped read-only; `Side.rows` index it.

    Raises:
        ArtifactError: It is missing or damaged; see `require_pixels`.
    """
    path = cache / prepared.pixels
    if not is_whole(path):
        fix = "run the study's `xraytune search` command again: it decodes the images again"
        raise ArtifactError(Problem("the decoded images are missing or damaged", path, fix))
    return open_pixels(path)


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
