"""The table of images, from the listing of a data folder to the split of a study.

`ImageFile` is a row, `Images` a table of them with columns as arrays, and `ImageIndex` the table of
a data folder. Rows are typed and need no pandas, whose import would double the start of `status`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import Field

from xraytune.base.arrays import Int64Array
from xraytune.base.errors import Problem
from xraytune.base.records import frozen
from xraytune.data.findings import numbers_of
from xraytune.data.guesses import PartName

SideName: TypeAlias = Annotated[
    str, Field(pattern=r"^(train|val_a|val_b|unused|test|others|draw_\d+)$")
]
"""A side of a study's split: train, val_a or val_b; `data.train_patients` leaves other images
unused. In a confirmation on unused patients, these are on test, draw_0, draw_1 ...; and for a
replicate, whose own draw is train, those of the other draws and of the search are on others."""
SHORT_SHA256 = 16
SINGLE_CLASS = ("image",)
"""The only class of images with masks, or with findings."""


@frozen
class TableRow:
    """What a table says about one image, in one or more rows.

    Attributes:
        patient: Empty without a column of patients.
        part: None without a column of sides.
        labels: All labels of its rows, also those without a class.
        is_disputed: Whether its rows differ in class or in a finding.
        is_other_view: Whether a row says that it is a lateral view, CT or MR.
        left_out_as: A cell that `data.table.rows` does not accept, or empty.
        cells: Those of each of its rows, by column.
    """

    patient: str
    part: PartName | None
    labels: tuple[str, ...]
    class_name: str | None
    findings: str
    is_disputed: bool
    is_other_view: bool
    left_out_as: str
    cells: tuple[Mapping[str, str], ...]


@frozen
class ImageFile:
    """One image, whose fields are filled step by step.

    A listing fills file, label, part, masks, findings and its row in a table. Reading, splitting
    and decoding fill the others.

    Attributes:
        file: Path below the data folder, with forward slashes, like `masks`, which are to be
            merged.
        label: Position of its class in the class names.
        part: As the data folder gives it, before the split.
        site: Where it was taken, such as a hospital (`data/sites.py`); empty if that is not known.
        findings: One character for each finding: 1 (present), 0 (absent) or ? (unknown); empty
            without any.
        sha256: Hash of the file's bytes; empty if the file cannot be read. Equal images are of one
            patient.
        width_px: From the file's header, upright, like `height_px`; 0 if the header is broken,
            which decoding reports.
        masks_sha256: Hash of the masks' bytes; empty without masks.
        is_turned_alone: Whether orientation tags turn it and one of its masks differently.
        row: Its row in the pixel store.
        patient_id: From the DICOM header that names the patient, or empty; for messages only, never
            stored, like `view`.
        in_table: Its row of `data.table` or `patients.csv`, if it has one; never stored.
    """

    file: str
    label: int
    patient: str = ""
    site: str = field(default="", compare=False)
    part: PartName = field(default="train", compare=False)
    side: SideName = "unused"
    row: int = -1
    sha256: str = ""
    width_px: int = field(default=0, compare=False)
    height_px: int = field(default=0, compare=False)
    masks: tuple[str, ...] = field(default=(), compare=False)
    masks_sha256: str = ""
    is_turned_alone: bool = field(default=False, compare=False)
    findings: str = ""
    patient_id: str = field(default="", compare=False, repr=False)
    view: str = field(default="", compare=False, repr=False)
    in_table: TableRow | None = field(default=None, compare=False, repr=False)

    @property
    def short_sha256(self) -> str:
        """The first 16 hex digits of its hash, by which the test-set access log knows it."""
        return self.sha256[:SHORT_SHA256]

    @property
    def content(self) -> str:
        """The hashes of the image and its masks, and its findings."""
        return self.sha256 + self.masks_sha256 + self.findings


RECORDED = (
    *("file", "patient", "site", "label", "side", "row"),
    *("sha256", "masks_sha256", "findings"),
)
"""What a study records of its images."""


class Images(tuple[ImageFile, ...]):
    """A table of images, with columns as arrays."""

    @property
    def labels(self) -> Int64Array:
        """The class of each image, int64 [N]."""
        return np.array([image.label for image in self], dtype=np.int64)

    @property
    def patients(self) -> tuple[str, ...]:
        """The patient of each image."""
        return tuple(image.patient for image in self)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of their sites, sorted."""
        return tuple(sorted({image.site for image in self} - {""}))

    @property
    def targets(self) -> Int64Array:
        """What a network learns, int64: the labels, [N], or the findings, [N, C].

        A finding is 1 if it is present, 0 if it is absent and -1 if that is not known.
        """
        if any(image.findings for image in self):
            return numbers_of([image.findings for image in self])
        return self.labels


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """The images of a data folder.

    Attributes:
        all_images: Sorted by file.
        problems: Of unknown classes, unpaired masks or classes without images; `read_index` raises
            them.
        findings: Names of the findings of all images; empty unless `data.findings` is given.
        positive: Label of the positive class; without two classes, of no meaning.
    """

    root: Path
    class_names: tuple[str, ...]
    all_images: Images
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    positive: int = 0

    @cached_property
    def images(self) -> Images:
        """The images to split into training and validation sides."""
        return Images(image for image in self.all_images if image.part != "test")

    @cached_property
    def test(self) -> Images:
        """The sealed images of the test part: only their names, hashes and headers are read."""
        return Images(image for image in self.all_images if image.part == "test")

    @property
    def test_fingerprint(self) -> str | None:
        """A hash of the test part, independent of file names; None without a test part."""
        return content_fingerprint(self.test) if self.test else None

    @property
    def test_patients(self) -> str | None:
        """A hash of which test images are of the same patient, independent of all names."""
        of_patient = defaultdict(list)
        for image in self.test:
            of_patient[image.patient].append(image.sha256)
        groups = sorted(" ".join(sorted(contents)) for contents in of_patient.values())
        return _hash_lines(groups) if groups else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The findings, or the classes."""
        return self.findings or self.class_names


def content_fingerprint(images: Iterable[ImageFile], *, in_order: bool = False) -> str:
    """Return a hash of labels, images and masks, 32 hex digits.

    Renaming files changes it only `in_order`.
    """
    lines = [f"{image.label} {image.content}" for image in images]
    return _hash_lines(lines if in_order else sorted(lines))


def _hash_lines(lines: Iterable[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()[:32]
