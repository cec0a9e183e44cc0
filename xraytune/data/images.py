"""The table of images, from the listing of a data folder to the split of a study.

`ImageFile` is a row, `Images` a table of them with columns as arrays, and `ImageIndex` the table of
a data folder. Rows are typed and need no pandas, whose import would double the start of `status`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from xraytune.base.errors import Problem
from xraytune.base.records import frozen
from xraytune.data.findings import numbers_of
from xraytune.data.guesses import PartName
from xraytune.data.table import LabelTable

SideName: TypeAlias = Annotated[
    str, Field(pattern=r"^(train|val_a|val_b|unused|test|others|draw_\d+)$")
]
"""A side of a study's split: train, val_a or val_b; `data.train_patients` leaves other images
unused. In a confirmation on unused patients, these are on test, draw_0, draw_1 ...; and for a
replicate, whose own draw is train, those of the other draws and of the search are on others."""
SINGLE_CLASS = ("image",)
"""The only class of images with masks, or with findings."""


@frozen
class ImageFile:
    """One image. A listing fills file, label, part, masks and findings.

    Reading, splitting and decoding fill the others.

    Attributes:
        file: Path below the data folder, with forward slashes, like `masks`, which are to be
            merged.
        label: Position of its class in the class names.
        part: As the data folder gives it, before the split.
        findings: One character for each finding: 1 (present), 0 (absent) or ? (unknown); empty
            without any.
        sha256: Hash of the file's bytes; empty if the file cannot be read. Equal images are of one
            patient.
        width_px: From the file's header, upright, like `height_px`; 0 if the header is broken,
            which decoding reports.
        masks_sha256: Hash of the masks' bytes; empty without masks.
        row: Its row in the pixel store.
        patient_id: From the DICOM header that names the patient, or empty; for messages only, never
            stored, like `view`.
    """

    file: str
    label: int
    patient: str = ""
    part: PartName = field(default="train", compare=False)
    side: SideName = "unused"
    row: int = -1
    sha256: str = ""
    width_px: int = field(default=0, compare=False)
    height_px: int = field(default=0, compare=False)
    masks: tuple[str, ...] = field(default=(), compare=False)
    masks_sha256: str = ""
    findings: str = ""
    patient_id: str = field(default="", compare=False, repr=False)
    view: str = field(default="", compare=False, repr=False)

    @property
    def content(self) -> str:
        """The hashes of the image and its masks, and its findings."""
        return self.sha256 + self.masks_sha256 + self.findings


RECORDED = ("file", "patient", "label", "side", "row", "sha256", "masks_sha256", "findings")
"""What a study records of its images."""


class Images(tuple[ImageFile, ...]):
    """A table of images, with columns as arrays."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows of the pixel store, int64 [N]."""
        return np.array([image.row for image in self], dtype=np.int64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, int64 [N]."""
        return np.array([image.label for image in self], dtype=np.int64)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image."""
        return tuple(image.patient for image in self)

    @property
    def targets(self) -> NDArray[np.int64]:
        """What a network learns, int64.

        Labels, [N]; or findings, [N, C]: 1, 0, or -1 if unknown.
        """
        if any(image.findings for image in self):
            return numbers_of([image.findings for image in self])
        return self.labels

    def on(self, side: SideName) -> Images:
        """Return the images on one side of a split."""
        return Images(image for image in self if image.side == side)


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """The images of a data folder.

    Attributes:
        all_images: Sorted by file.
        problems: Of unknown classes, unpaired masks or classes without images; `read_index` raises
            them.
        findings: Names of the findings of all images; empty unless `data.findings` is given.
        table: The folder's `data.table` or `patients.csv`, if it has one.
        positive: Label of the positive class; without two classes, of no meaning.
    """

    root: Path
    class_names: tuple[str, ...]
    all_images: Images
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    table: LabelTable | None = None
    positive: int = 0

    @cached_property
    def images(self) -> Images:
        """The images to split."""
        return Images(image for image in self.all_images if image.part != "test")

    @cached_property
    def test(self) -> Images:
        """The held-out images."""
        return Images(image for image in self.all_images if image.part == "test")

    @property
    def test_fingerprint(self) -> str | None:
        """Content of the test part, independent of file names; None without a test part."""
        return content_fingerprint(self.test) if self.test else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The findings, or the classes."""
        return self.findings or self.class_names


def content_fingerprint(images: Iterable[ImageFile], *, in_order: bool = False) -> str:
    """Return a hash of labels, images and masks, 32 hex digits.

    Renaming files changes it only `in_order`.
    """
    lines = [f"{image.label} {image.content}" for image in images]
    text = "\n".join(lines if in_order else sorted(lines))
    return sha256(text.encode()).hexdigest()[:32]
