"""The table of images, from the listing of a data folder to the split of a study.

`ImageFile` is a row, `ImageTable` a table with columns as arrays, and `ImageIndex` the table of
a data folder. Rows are typed and need no pandas, whose import would double the start of `status`.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
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
from xraytune.data.file_names import SETS
from xraytune.data.findings import numbers_of
from xraytune.data.guesses import PartName, says_other_view, shows_other_view

SideName: TypeAlias = Annotated[
    str, Field(pattern=r"^(train|val_a|val_b|unused|test|others|draw_\d+)$")
]
"""A side of a study's split: train, val_a or val_b. `data.train_patients` leaves other images
unused. In a confirmation on unused patients, unused images are on test, draw_0, draw_1 ... For a
replicate, its own draw is train, and the images of other draws and of the search are on others."""
LENDERS: SideName = "others"
"""The side of the patients who lend real images in the place of synthetic ones."""
SINGLE_CLASS = ("image",)
"""The only class of images with masks, or with findings."""


@frozen
class TableRow:
    """What a table says about one image, in one or more rows; nothing of an image without a row.

    Attributes:
        patient: The patient; empty without a column of patients.
        part: The part; None without a column of sides.
        labels: All labels of the image's rows, including labels without a class.
        is_disputed: Whether the rows differ in class or in a finding.
        is_other_view: Whether a row says that the image is a lateral view, CT or MR.
        left_out_as: A cell that `data.table.rows` does not accept, or empty.
        cells: The cells of each row, by column.
    """

    patient: str = ""
    part: PartName | None = None
    labels: tuple[str, ...] = ()
    class_name: str | None = None
    findings: str = ""
    is_disputed: bool = False
    is_other_view: bool = False
    left_out_as: str = ""
    cells: tuple[Mapping[str, str], ...] = ()


NO_ROW = TableRow()


@frozen
class ImageFile:
    """One image, whose fields are filled step by step.

    A listing fills file, label, part, masks, findings and its row in a table. Reading, splitting
    and decoding fill the others.

    Attributes:
        file: Path below the data folder, with forward slashes; likewise `masks`, which are merged.
        label: Position of its class in the class names.
        part: The part in the data folder, before the split.
        site: The place where the image was taken, such as a hospital (`data/sites.py`); empty if it
            is not known.
        findings: One character for each finding: 1 (present), 0 (absent) or ? (unknown); empty if
            there are no findings.
        sha256: Hash of the file's bytes; empty if the file cannot be read. Equal images belong to
            the same patient.
        width_px: Width of the upright image, from the file's header, like `height_px`; 0 if the
            header is broken, which decoding reports.
        kind: Format and colour mode, such as `JPEG RGB`; never stored.
        masks_sha256: Hash of the masks' bytes; empty without masks.
        is_turned_alone: Whether orientation tags turn the image and one of its masks differently.
        row: Row of the image in the pixel store.
        patient_id: Patient from the DICOM header, or empty; like `view`, used only in messages and
            never stored.
        in_table: Row of `data.table` or `patients.csv`; never stored.
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
    kind: str = field(default="", compare=False)
    masks: tuple[str, ...] = field(default=(), compare=False)
    masks_sha256: str = ""
    is_turned_alone: bool = field(default=False, compare=False)
    findings: str = ""
    patient_id: str = field(default="", compare=False, repr=False)
    view: str = field(default="", compare=False, repr=False)
    in_table: TableRow = field(default=NO_ROW, compare=False, repr=False)

    @property
    def is_other_view(self) -> bool:
        """Whether a name, header or table says that this is a lateral view, CT or MR."""
        in_table = self.in_table.is_other_view
        return in_table or shows_other_view(self.file) or says_other_view(self.view)

    @property
    def short_sha256(self) -> str:
        """The first 16 hex digits of the hash, which identify the image in the access log."""
        return self.sha256[:16]

    @property
    def content(self) -> str:
        """The hashes of the image and its masks, and its findings."""
        return self.sha256 + self.masks_sha256 + self.findings


RECORDED = "file patient site label side row sha256 masks_sha256 findings".split()
"""The columns that a study records of its images."""


class ImageTable(tuple[ImageFile, ...]):
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
        """The names of the images' sites, sorted."""
        return tuple(sorted({image.site for image in self} - {""}))

    def without(self, patients: Collection[str]) -> "ImageTable":
        """Return the images of other patients."""
        return ImageTable(image for image in self if image.patient not in patients)

    @property
    def targets(self) -> Int64Array:
        """The labels, int64 [N], or the findings, int64 [N, C], that a network learns.

        A finding is 1 if it is present, 0 if it is absent, and -1 if it is unknown.
        """
        if any(image.findings for image in self):
            return numbers_of([image.findings for image in self])
        return self.labels


@dataclass(frozen=True, kw_only=True)
class ImageIndex:
    """The images of a data folder.

    Attributes:
        all_images: All images of the folder, sorted by file.
        problems: Problems such as unknown classes, unpaired masks or classes without images;
            `read_index` raises them.
        findings: Names of the findings of all images; empty unless `data.findings` is given.
        positive: Label of the positive class; meaningless unless there are two classes.
        name_sets: The public sets whose file names give the patients.
    """

    root: Path
    class_names: tuple[str, ...]
    all_images: ImageTable
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    positive: int = 0
    name_sets: tuple[str, ...] = SETS

    @cached_property
    def images(self) -> ImageTable:
        """The images to split into training and validation sides."""
        return ImageTable(image for image in self.all_images if image.part != "test")

    @cached_property
    def test(self) -> ImageTable:
        """The sealed images of the test part, of which only names, hashes and headers are read."""
        return ImageTable(image for image in self.all_images if image.part == "test")

    @property
    def test_fingerprint(self) -> str | None:
        """The `content_fingerprint` of the test part, or None without a test part."""
        return content_fingerprint(self.test) if self.test else None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The findings, or the classes."""
        return self.findings or self.class_names


def content_fingerprint(images: Iterable[ImageFile], *, in_order: bool = False) -> str:
    """Return a hash of labels, images and masks, and of which of them show the same patient.

    It has 32 hex digits. Other names of patients do not change it, and other names of files change
    it only with `in_order`.
    """
    lines_by_patient = defaultdict(list)
    for index, image in enumerate(images):
        line = f"{image.label} {image.content}"
        lines_by_patient[image.patient].append(f"{index} {line}" if in_order else line)
    patients = [" ".join(sorted(lines)) for lines in lines_by_patient.values()]
    return sha256("\n".join(sorted(patients)).encode()).hexdigest()[:32]
