"""Count the images and patients of each side of a split, and say what an AUROC there can tell.

Trials are ranked by their AUROC on val-A and val-B. With few patients, the difference between two
trials is mostly chance.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from xraytune.base.errors import add_notes, join_names
from xraytune.base.records import frozen
from xraytune.data.images import ImageFile, ImageIndex, ImageTable, SideName
from xraytune.data.prepare import SplitData
from xraytune.data.split import split_by_patient
from xraytune.space.data_settings import DataSettings
from xraytune.stats.classification import FEWEST_LABELS, scored_findings
from xraytune.stats.placements import auroc_interval, chance_difference, effective_patients

USUAL_AUROC = 0.9
"""The AUROC at which sides are compared, before any trial has one."""
MOST_CHANCE = 0.05
"""The largest chance difference at which the order of trials says something: five default ROPEs."""
FEWEST_OF_CLASS, FEWEST_TESTED = 2, 5
"""The fewest patients of a class for an interval, and for an interval that supports a verdict."""
_NAMES: dict[SideName, str] = {"train": "train", "val_a": "val-A", "val_b": "val-B"}


@frozen
class SideSize:
    """The size of one side, with the images and patients of each class or with each finding.

    Attributes:
        name: `train`, `val-A`, `val-B` or `test`.
        image_count: Number of images; an image may have several findings.
        patient_count: Number of patients; a patient may have images of several classes.
        patients_without: The patients known not to have each finding; empty for classes.
        unscored: Findings with too few positives or negatives for a score; None for classes and
            masks.
        effective_patients: See `stats.placements.effective_patients`; 0 for train, or if a class is
            missing, and for pairs of images and masks, which have no AUROC.
        low, high: The 95 % interval of an AUROC of .9 measured on this side; None without effective
            patients.
    """

    name: str
    images: dict[str, int]
    patients: dict[str, int]
    patients_without: dict[str, int]
    image_count: int
    patient_count: int
    effective_patients: float
    low: float | None
    high: float | None
    unscored: tuple[str, ...] | None = None

    def interval(self, auroc: float) -> tuple[float, float] | None:
        """Return the 95 % interval of an AUROC measured on this side."""
        return auroc_interval(auroc, self.effective_patients) if self.effective_patients else None

    def lacking(self, fewest_patients: int = 1) -> str:
        """Return the classes with fewer patients than `fewest_patients`, such as `PNEUMONIA 1`.

        Of findings, return all if none can be scored, such as `Edema 20 with and 5 without`.
        Returns "" if the side lacks nothing.
        """
        if self.patients_without:
            few = [
                f"{name} {self.patients[name]} with and {count} without"
                for name, count in self.patients_without.items()
            ]
            return join_names(few) if self.unscored == tuple(self.images) else ""
        few = [
            f"{name} {count}" if self.has_classes else f"{count}"
            for name, count in self.patients.items()
            if count < fewest_patients
        ]
        return join_names(few)

    @property
    def has_classes(self) -> bool:
        """Whether there are several classes, and so an AUROC; pairs have a single class."""
        return len(self.images) > 1


def side_sizes(prepared: SplitData) -> tuple[SideSize, ...]:
    """Return the sizes of train, val-A and val-B of a study."""
    return tuple(
        side_size(name, prepared.side(side), prepared.outputs, prepared.positive)
        for side, name in _NAMES.items()
    )


def sizes_of_index(index: ImageIndex, data: DataSettings) -> tuple[SideSize, ...]:
    """Return the sizes of a data folder's sides as a search splits it, and of its test part."""
    with add_notes(index.warnings):
        split = split_by_patient(index.images, data.split, data.train_patients)
    sided_images = [*zip(index.images, split, strict=True)]
    sides = {}
    for side, name in _NAMES.items():
        sides[name] = [image for image, image_side in sided_images if image_side == side]
    if index.test:
        sides["test"] = [*index.test]
    return tuple(
        side_size(name, images, index.outputs, index.positive) for name, images in sides.items()
    )


def too_few_tested(images: Sequence[ImageFile], outputs: Sequence[str]) -> str:
    """Return why a verdict cannot rest on these test images, or "" if it can.

    `outputs` are the classes or findings.
    """
    if not images:
        return "there is no patient to test on"
    fewest_patients = FEWEST_LABELS if images[0].findings else FEWEST_TESTED
    few = side_size("test", images, outputs, 0).lacking(fewest_patients)
    if not few:
        return ""
    return f"too few test patients: {few}; an interval needs {fewest_patients} or more"


def chance_warning(sizes: Iterable[SideSize]) -> str:
    """Return a warning if val-A or val-B is too small to rank trials, or "" otherwise."""
    chances = {}
    unscorable = []
    for size in sizes:
        if size.name.startswith("val") and size.has_classes:
            name = f"{size.name} ({size.patient_count} patients)"
            if not size.effective_patients:
                unscorable.append(name)
                continue
            chance = chance_difference(USUAL_AUROC, size.effective_patients)
            if chance > MOST_CHANCE:
                chances[name] = chance
    if unscorable:
        cannot = f"{' and '.join(unscorable)} cannot score a trial"
        return (
            f"{cannot}: too few patients have, or lack, any one of the labels; use larger "
            "validation sides (data.split), or more patients"
        )
    if not chances:
        return ""
    are = "is" if len(chances) == 1 else "are"
    return (
        f"{' and '.join(chances)} {are} too small to rank trials: two equally good trials can "
        f"differ by {max(chances.values()):.2f} in AUROC by chance alone (95 %); use larger "
        "validation sides (data.split), or more patients"
    )


def side_size(
    name: str, images: Sequence[ImageFile], outputs: Sequence[str], positive: int
) -> SideSize:
    """Return the size of a side with these images; `outputs` are classes or findings."""
    table = ImageTable(images)
    targets = table.targets
    patients = np.array(table.patients)
    unscored = None
    patients_without = {}
    if targets.ndim == 2:
        has_output = targets == 1
        scored = scored_findings(targets)
        unscored = tuple(name for index, name in enumerate(outputs) if index not in scored)
        has_score = len(scored) > 0
        for output, states in zip(outputs, targets.T, strict=True):
            patients_without[output] = len(np.unique(patients[states == 0]))
    else:
        has_output = targets[:, None] == np.arange(len(outputs))
        has_score = len(outputs) > 1 and bool(has_output.any(axis=0).all())
    columns = [(output, has_output[:, index]) for index, output in enumerate(outputs)]
    effective = 0.0
    if has_score and name != "train":
        effective, _ = effective_patients(targets, table.patients, positive)
    low, high = auroc_interval(USUAL_AUROC, effective) if effective else (None, None)
    return SideSize(
        name=name,
        images={output: int(is_of_output.sum()) for output, is_of_output in columns},
        patients={
            output: len(np.unique(patients[is_of_output])) for output, is_of_output in columns
        },
        patients_without=patients_without,
        image_count=len(images),
        patient_count=len(np.unique(patients)),
        effective_patients=effective,
        low=low,
        high=high,
        unscored=unscored,
    )
