"""Settings of the images: their folder or table, classes, patients and split."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat

from xraytune.space.contract import Change, refuses
from xraytune.space.encoders import DataSet
from xraytune.space.paths import FilePath
from xraytune.space.strict_model import Fraction, ImageSize, OptionalCount, Several, StrictModel

FOLDER_NAME = r"^[^/\\\x00-\x1f\x7f.][^/\\\x00-\x1f\x7f]{0,63}$"
"""Allowed names of classes; images are written into folders with these names."""
ClassName = Annotated[str, Field(pattern=FOLDER_NAME)]

UncertainUse = Literal["ignore", "zeros", "ones"]


class SplitSettings(StrictModel):
    """The split of the training images into train, val-A and val-B, by patient."""

    val_a: Fraction = 0.1
    val_b: Fraction = 0.1
    seed: int = 0
    group_regex: str | None = None
    """A regular expression for the path relative to the data folder; its first group is the
    patient."""
    site: Annotated[str, Field(min_length=1)] | None = None
    """Where an image's site, such as its hospital, is written: `folder`, the outermost folder; a
    column of the table or of `patients.csv`; a DICOM keyword, such as `InstitutionName`; or a
    regular expression for the path, whose group is the site. null: the outermost folders, if all of
    them contain the same class folders."""


@refuses("data.split.val_a", "data.split.val_b")
def _leave_training_images(val_a: float, val_b: float) -> Change:
    """Less than a tenth of the patients would be left to train on."""
    too_much = val_a + val_b >= 0.9
    return {"data.split.val_a": 0.1, "data.split.val_b": 0.1} if too_much else {}


def _count_groups(expression: str) -> int:
    """Return the number of groups of a regular expression, or 0 if it is invalid."""
    try:
        return re.compile(expression).groups
    except re.error:
        return 0


@refuses("data.split.group_regex", instead="(p[0-9]+)_")
def _find_patients(group_regex: str | None) -> bool:
    """A regular expression for patients needs a group, in parentheses, around what names them."""
    return group_regex is not None and _count_groups(group_regex) == 0


@refuses("data.split.site", instead="(site[0-9]+)/")
def _find_sites(site: str | None) -> bool:
    """A regular expression for sites needs one group, in parentheses, around what names them."""
    return site is not None and "(" in site and _count_groups(site) != 1


_LISTED = BeforeValidator(
    lambda texts: (texts,) if isinstance(texts, str) else texts,
    json_schema_input_type=str | tuple[str, ...],
)
OneOrMore = Annotated[Several[str], _LISTED, Field(min_length=1)]
"""A list of texts, or a single one."""


class TableSides(StrictModel):
    """The training and test images of a table by lists; at least one of them."""

    train: str | None = None
    """A file with one image per line, or a folder; if it is given, images in no list are left
    out."""
    test: str | None = None
    """Like `train`; if only `test` is given, all other images are training images."""


def _require_lists(side: Any) -> Any:
    if isinstance(side, dict) and not (side.keys() <= {"train", "test"} and any(side.values())):
        raise ValueError("give lists, {train: LIST, test: LIST}, or the name of a column alone")
    return side


class TableSettings(StrictModel):
    """A table of images: its columns for the image, the patient, the label and the side."""

    file: OneOrMore
    """A CSV file relative to `data.path`, or several that are read as one."""
    image: str
    """The column of the image: its path, the end of that, or its name, with or without suffix."""
    patient: str | None = None
    """The column of the patient; without it, the patient is found as in a folder."""
    label: str | None = None
    """The column of the label, or of several labels in each cell."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What is between the labels of a cell. Without it, `|`; where no cell has one, the first of
    `; , # / +` between labels that other cells have alone."""
    labels: dict[str, ClassName] = Field(default={})
    """The class of each label; the first entry that applies to a row of the image decides. Without
    `label`, the labels are columns: 1 is yes."""
    rows: dict[str, OneOrMore] = Field(default={})
    """The rows to use, by the cells of a column: `{view: [PA, AP]}`; other images are left out."""
    side: Annotated[str | TableSides | None, BeforeValidator(_require_lists)] = None
    """Which images are train, val and test: a column with these words, or lists; without it, the
    folders of these names decide."""

    @property
    def side_column(self) -> str | None:
        """The column of the side."""
        return self.side if isinstance(self.side, str) else None

    @property
    def gives_classes(self) -> bool:
        """Whether the table gives the classes, rather than the folders."""
        return self.label is not None or bool(self.labels)


class ShiftSettings(StrictModel):
    """How another hospital's images differ from the files.

    The changes are applied to all images of `data.path`, in this order.
    """

    blur_px: NonNegativeFloat = 0.0
    """Standard deviation of a Gaussian blur, at `image_size`."""
    gamma: PositiveFloat = 1.0
    """Exponent of the grey values, from 0 to 1."""
    contrast: float = 1.0
    """Factor of the differences from mid-grey; -1 inverts."""
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise, where white is 1."""


@refuses("data.shift.contrast", instead=1.0)
def _keep_contrast(contrast: float | None) -> bool:
    """Without contrast, all images are the same grey."""
    return contrast == 0


class DataSettings(StrictModel):
    """The images, their classes and their size."""

    path: FilePath
    set: DataSet | None = None
    """The public data set that they come from, or `other`: the verdict is exploratory if an encoder
    was pretrained on it, or may have been."""
    classes: Literal["binary", "three", "auto"] = "auto"
    """`binary` is NORMAL and PNEUMONIA, `three` normal, bacterial and viral. `auto` is `binary` if
    all images are of these two, and else one class per folder, or per name in the table."""
    positive: str | None = None
    """The positive class of two, for sensitivity. It need not be given if the other one is called
    NORMAL, healthy or the like."""
    image_size: ImageSize = 128
    resize: Literal["squash", "crop"] = "squash"
    """`squash` ignores the aspect ratio; `crop` scales the shorter side to the size and crops the
    centre."""
    shift: ShiftSettings | None = None
    """Simulates another scanner, to ask what another hospital should send. A given generator,
    folder or classifier is not shifted."""
    table: TableSettings | None = None
    """A table of labels and patients; without it, folders and `patients.csv` give them."""
    findings: Several[str] | Literal["auto"] | None = None
    """For `task: findings`, the columns of the table or, with `table.label`, the labels of a cell;
    `auto`: all of them. `No Finding` without such a column is the absence of all others. With
    classes, findings of a data file are not used."""
    uncertain: UncertainUse | dict[str, UncertainUse] = "ignore"
    """Whether uncertain findings (-1) are unknown (`ignore`), absent (`zeros`) or present (`ones`):
    one word for all findings, or one for each name."""
    empty: Literal["ignore", "zeros"] = "ignore"
    """Findings with an empty cell are unknown (`ignore`) or absent (`zeros`)."""
    split: SplitSettings = SplitSettings()
    train_patients: OptionalCount = None
    """Number of patients of the train side to use; null: all of them."""


@refuses("data.positive", "class_count", instead=None, is_useless=True)
def _choose_one_of_two(positive: str | None, class_count: int) -> bool:
    """Only one of two classes can be positive."""
    return positive is not None and class_count != 2


@refuses("task", "data.findings", "data.table")
def _describe_findings(task: str, findings: object, table: object) -> Change:
    """A list of findings is for `task: findings`, which needs it and a table."""
    if task != "findings":
        return {"task": "findings"} if findings is not None else {}
    if findings is None:
        return {"data.findings": "auto"}
    return {"data.table": "{file: labels.csv, image: file}"} if table is None else {}
