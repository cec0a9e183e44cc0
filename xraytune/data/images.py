"""One record of an image, from the listing of its folder to the split of a study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

from pydantic import Field

from xraytune.data.guesses import PartName

SideName: TypeAlias = Annotated[
    str, Field(pattern=r"^(train|val_a|val_b|unused|test|others|draw_\d+)$")
]
"""A side of a study's split: train, val_a or val_b; `data.train_patients` leaves other images
unused. In a confirmation on unused patients, these are on test, draw_0, draw_1 ...; and for a
replicate, whose own draw is train, those of the other draws and of the search are on others."""
SINGLE_CLASS = ("image",)
"""The only class of images with masks, or with findings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image. A listing knows file, label, part, masks and findings; reading it, splitting and decoding add the others.

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
    width_px: int = 0
    height_px: int = 0
    masks: tuple[str, ...] = ()
    masks_sha256: str = ""
    findings: str = ""
    patient_id: str = field(default="", compare=False, repr=False)
    view: str = field(default="", compare=False, repr=False)


RECORDED = ("file", "patient", "label", "side", "row", "sha256", "masks_sha256", "findings")
"""What a study records of its images."""
