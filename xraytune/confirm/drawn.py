"""Training sets and a sealed test set as plain files, for trainings that xraytune does not run.

`draws.csv` says who is trained on and which images are predicted. `sealed.json` has what judges the
predictions, such as the labels of the test images, which no training may read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from xraytune.base.errors import DataError, StudyError
from xraytune.base.files import csv_table, read_json, require_recorded, write_json, write_text
from xraytune.base.records import frozen, to_json
from xraytune.base.templates import open_templates
from xraytune.confirm.arms import TestKind
from xraytune.stats.classification import Labels
from xraytune.study.folder import explain_damage

DRAWS_FILE = "draws.csv"
_SEALED_FILE = "sealed.json"
_RESTORE = "restore it from a backup, or make new draws"


@frozen
class DrawnImage:
    """A row of `draws.csv`, where each finding has a column: 1, 0, or nothing if it is unknown.

    Attributes:
        replicate: The replicate whose training set has the image; None for an image of all.
        side: `train` of a replicate; `tuning` and `validation` for what is chosen before; `test`.
        label: The class or the findings; "" for a test image.
    """

    replicate: int | None
    side: str
    file: str
    patient: str
    label: str


@frozen
class Drawn:
    """What is needed to judge predictions on the test set of some draws.

    Attributes:
        kind: What is scored, as for `confirm`.
        outputs: The classes or findings; `dice` for masks.
        findings: The findings; empty for classes.
        positive: The number of the positive class.
        train_patients: How many patients each replicate is trained on.
        patients: The patient of each test image, by its file.
        labels: The class of each test image, or its findings, by its file.
        draws: The training patients of each replicate.
        fingerprint: The fingerprint of the test images' content.
    """

    kind: TestKind
    outputs: tuple[str, ...]
    findings: tuple[str, ...]
    positive: int
    train_patients: int
    patients: Mapping[str, str]
    labels: Mapping[str, str | tuple[int, ...]]
    draws: tuple[tuple[str, ...], ...]
    fingerprint: str

    @property
    def result_columns(self) -> tuple[str, ...]:
        """The columns with the results in a table of predictions."""
        if self.outputs == ("dice",):
            return self.outputs
        return tuple(f"p_{name}" for name in self.outputs)

    def labels_of(self, files: Iterable[str]) -> Labels:
        """Return the class, [N], or the findings, [N, C], of test images; zeros for masks."""
        labels = [self.labels[file] for file in files]
        if self.outputs == ("dice",):
            return np.zeros(len(labels), dtype=np.int64)
        if self.findings:
            return np.array(labels, dtype=np.int64)
        return np.array([self.outputs.index(str(name)) for name in labels])

    def trained_on(self, replicate: int) -> frozenset[str]:
        """Return the training patients of a replicate, counted from 1.

        Raises DataError if there is no such replicate.
        """
        if not 1 <= replicate <= len(self.draws):
            raise DataError(
                f"there is no draw for replicate {replicate}",
                fix=f"use the numbers of {DRAWS_FILE}, 1 to {len(self.draws)}",
            )
        return frozenset(self.draws[replicate - 1])


def write_drawn(folder: Path, drawn: Drawn, images: Iterable[DrawnImage]) -> None:
    """Write a folder of draws: the table, a page that explains it, and what is sealed."""
    columns = ["replicate", "side", "file", "patient"]
    columns += [f"label_{name}" for name in drawn.findings] or ["label"]
    rows = []
    for image in images:
        cells = [image.label]
        if drawn.findings:
            states = image.label or "?" * len(drawn.findings)
            cells = ["" if state == "?" else state for state in states]
        rows.append([image.replicate, image.side, image.file, image.patient, *cells])
    write_text(folder / DRAWS_FILE, csv_table(columns, rows))
    page = open_templates("xraytune.confirm").get_template("draws.md")
    write_text(folder / "README.md", page.render(drawn=drawn, columns=columns))
    write_json(folder / _SEALED_FILE, to_json(drawn), is_recorded=True)


def read_drawn(folder: Path) -> Drawn:
    """Return what a folder of draws knows.

    Raises StudyError if there are no draws, or their file is not as it was written.
    """
    file = folder / _SEALED_FILE
    if not file.exists():
        raise StudyError(
            f"no draws here: {_SEALED_FILE} is missing",
            folder,
            "give the folder that `xraytune draws` wrote",
        )
    with explain_damage(file, _RESTORE):
        require_recorded(file)
        return TypeAdapter(Drawn).validate_python(read_json(file))
