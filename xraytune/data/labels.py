"""Read what the cells of a table say about an image: its labels, its class and its findings.

Labels are in one cell, with a separator between them, or in columns that say yes or no. What a cell
does not say is unknown, never absent.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from xraytune.base.errors import DataError, Problem, join_names
from xraytune.data.findings import ABSENT, PRESENT, UNKNOWN
from xraytune.data.guesses import (
    EMPTY,
    NO,
    READ_CELLS,
    UNCERTAIN,
    YES,
    casefold_text,
    is_view_column,
    means_no_disease,
    mentions,
    normalise_text,
    word_in,
)
from xraytune.space.data_settings import DataSettings, TableSettings
from xraytune.space.messages import nearest

Cells: TypeAlias = Mapping[str, str]
"""The cells of a row, by column."""
_SEPARATORS = (";", ",", "/", "#", "+")
"""Separators besides `|`, in the order in which they are tried."""
_STATES = {"ignore": UNKNOWN, "zeros": ABSENT, "ones": PRESENT}


class CellReader:
    """Reads the rows of a table.

    Attributes:
        listed: The labels or findings that the settings name.
        separator: The text between the labels of a cell.
        words: The number of rows with each label.
        findings: The findings of each row.
    """

    def __init__(
        self,
        settings: TableSettings,
        data: DataSettings,
        rows: Sequence[Cells],
        columns: Sequence[str],
        path: Path,
    ) -> None:
        """Learn from all rows what separates labels, and what the findings are.

        `columns` may be findings. Raises DataError if blanks may separate labels.
        """
        listed = settings.labels if data.findings is None else data.findings
        self.settings = settings
        self.data = data
        self.listed = () if listed == "auto" else tuple(map(normalise_text, listed))
        self.separator = settings.separator or ""
        if settings.label and (data.findings or settings.labels) and not self.separator:
            label_cells = {cells[settings.label] for cells in rows if settings.label in cells}
            self.separator = _find_separator(label_cells, self.listed, path)
        self.words = Counter(label for cells in rows for label in self.labels_of(cells))
        self.findings = self.listed if data.findings else ()
        if data.findings == "auto" and settings.label is None:
            self.findings = _finding_columns(columns, rows)
        elif data.findings == "auto":
            spellings = {
                casefold_text(word): word for word in sorted(self.other_labels(), reverse=True)
            }
            found_words = sorted(spellings.values())
            self.findings = tuple(word for word in found_words if word_in(word) not in READ_CELLS)

        names = {*map(casefold_text, self.findings)}
        listed_words = {*map(casefold_text, self.listed)}
        words = {*map(casefold_text, self.words)}
        self._unclear = {}
        """The findings that each label leaves unknown, all in lower case."""
        for word in words:
            is_clear = word in listed_words or means_no_disease(word)
            mentioned = set() if is_clear else {name for name in names if mentions(word, name)}
            self._unclear[word] = (names - words) | mentioned

    def labels_of(self, cells: Cells) -> list[str]:
        """Return the labels of a row: the labels in its cell, or the columns that say yes."""
        settings = self.settings
        if settings.label is None:
            return [label for label in settings.labels if word_in(cells.get(label, "")) in YES]
        cell = cells.get(settings.label, "")
        labels = [cell]
        if cell.startswith("[") and cell not in self.listed:  # a list, as Python writes it
            labels = [label.strip().strip("'\"") for label in cell.strip("[]").split(",")]
        elif self.separator and not (cell in self.listed or means_no_disease(cell)):
            labels = cell.split(self.separator)
        labels = [label.strip() for label in labels]
        return [
            label
            for label in labels
            if label in self.listed or means_no_disease(label) or label.casefold() not in EMPTY
        ]

    def denies_labels(self, cells: Cells) -> bool:
        """Return whether the column of any label says no."""
        return any(word_in(cells.get(label, "")) in NO for label in self.settings.labels)

    def class_of(self, labels: Collection[str]) -> str | None:
        """Return the class of an image with these labels."""
        if not self.settings.labels or not labels:
            return min(labels, default=None)
        folded_labels = {"*", *map(casefold_text, labels)}
        classes = self.settings.labels.items()
        return next(
            (name for label, name in classes if casefold_text(label) in folded_labels), None
        )

    def findings_of(self, cells: Cells) -> list[str]:
        """Return the findings of a row, from its labels or from a column for each finding.

        A finding that a label only mentions is unknown. All findings are unknown if no label is a
        finding or `No Finding`. If `No Finding` has no column, it is the absence of all others.
        """
        names = self.findings
        if self.settings.label and names:
            cells = self._cells_by_finding(cells)
        states = []
        for name in names:
            uncertain = self.data.uncertain
            word = word_in(cells.get(name, "?"))
            use = "ignore"
            if word in YES:
                use = "ones"
            elif word in NO:
                use = "zeros"
            elif word in UNCERTAIN:
                use = uncertain if isinstance(uncertain, str) else uncertain.get(name, use)
            elif word in EMPTY:
                use = self.data.empty
            states.append(_STATES[use])
        for column, name in enumerate(names):
            if name not in cells and means_no_disease(name):
                other_states = {*states[:column], *states[column + 1 :]}
                if PRESENT in other_states:
                    states[column] = ABSENT
                elif other_states == {ABSENT}:
                    states[column] = PRESENT
        return states

    def _cells_by_finding(self, cells: Cells) -> dict[str, str]:
        """Return what the labels of a row say, as if there were a column for each finding."""
        labels = self.labels_of(cells)
        folded_labels = {*map(casefold_text, labels)}
        unclear = {name for label in folded_labels for name in self._unclear[label]}
        is_read = any(map(means_no_disease, labels)) or bool(
            folded_labels & {*map(casefold_text, self.findings)}
        )
        cells = {}
        for name in self.findings:
            cells[name] = "no" if is_read else ""
            if casefold_text(name) in folded_labels:
                cells[name] = "yes"
            elif casefold_text(name) in unclear:
                cells[name] = "?"
        return cells

    def other_labels(self) -> list[str]:
        """Return the labels that are neither a finding nor the absence of all findings."""
        finding_words = {*map(casefold_text, self.findings)}
        return [
            word
            for word in self.words
            if not (casefold_text(word) in finding_words or means_no_disease(word))
        ]

    def problems(self, rows: Sequence[Cells], path: Path) -> list[Problem]:
        """Return problems of the settings of a table.

        These are names in `data.table.rows` and `data.table.labels` that no cell has, and labels
        that contain one of `data.table.labels` but would get the class of `*`.
        """
        column = self.settings.label
        problems = []
        for key, accepted in self.settings.rows.items():
            cell_of = {casefold_text(cells[key]): cells[key] for cells in rows if key in cells}
            for value in accepted:
                if casefold_text(value) not in cell_of:
                    what = f"no cell of column {key} is {value!r} (data.table.rows)"
                    fix = f"remove it; the cells are {join_names(sorted(cell_of.values()), 5)}"
                    problems.append(Problem(what, path, nearest(value, cell_of.values(), fix)))
        if column is None or self.data.findings:
            return problems
        words = {casefold_text(word): word for word in self.words}
        other_class = self.settings.labels.get("*")
        labels = self.settings.labels
        for label in labels:
            if label != "*" and casefold_text(label) not in words:
                what = f"no cell of column {column} has the label {label!r}"
                problems.append(Problem(what, path, nearest(label, words.values(), "remove it")))
        if not other_class:
            return problems
        for word in words.keys() - {*map(casefold_text, labels)}:
            inside = [label for label in labels if mentions(word, casefold_text(label))]
            if any(labels[label] != other_class for label in inside):
                what = (
                    f"{words[word]!r} has the label {inside[0]!r} in it, but would be "
                    f"{other_class} by *"
                )
                fix = "write data.table.separator, or this label and its class in data.table.labels"
                problems.append(Problem(what, path, fix))
        return problems


def _find_separator(cells: Collection[str], listed: Collection[str], path: Path) -> str:
    """Return the text between the labels of cells; see `TableSettings.separator`.

    Raises DataError if blanks may separate labels.
    """
    several = [cell for cell in cells if cell not in listed and not cell.startswith("[")]
    if any("|" in cell for cell in several):
        return "|"
    whole_cells = {*map(casefold_text, (*cells, *listed))}
    for separator in (*_SEPARATORS, " "):
        for cell in several:
            parts = [casefold_text(part).strip() for part in cell.split(separator)]
            are_words = all(re.search(r"[^\W\d]", part) for part in parts)
            if len(parts) == 1 or not (are_words and whole_cells.issuperset(parts)):
                continue
            if separator == " ":
                raise DataError(
                    f"blanks may separate labels: {cell!r} consists of labels of other cells",
                    path,
                    "set data.table.separator to ' ', or to '|' if this is one label",
                )
            return separator
    return "|"


def _finding_columns(columns: Sequence[str], rows: Sequence[Cells]) -> tuple[str, ...]:
    """Return the columns whose cells say yes, no or neither, with at least one yes."""
    finding_columns = []
    for column in columns:
        words = {word_in(row[column]) for row in rows if column in row}
        if words <= READ_CELLS and words & YES and not is_view_column(column):
            finding_columns.append(column)
    return tuple(finding_columns)
