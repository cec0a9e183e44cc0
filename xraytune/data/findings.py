"""Findings: several labels of one image, each present, absent or unknown.

An image's findings are a text with one character for each, such as `10?`; `numbers_of` returns them
as numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraytune.base.seeding import numpy_generator
from xraytune.data.guesses import (
    EMPTY,
    NO,
    UNCERTAIN,
    YES,
    folded,
    is_view_column,
    means_no_disease,
)
from xraytune.space.settings import DataSettings, TableSettings
from xraytune.stats.classification import rarest_findings

PRESENT, ABSENT, UNKNOWN = "10?"


def numbers_of(findings: Sequence[str]) -> NDArray[np.int64]:
    """Return the findings of images as numbers, int64 [N, C]: 1, 0, or -1 if unknown."""
    codes = (
        np.frombuffer("".join(findings).encode(), dtype=np.uint8)
        .reshape(len(findings), -1)
        .astype(np.int64)
    )
    return np.where(codes == ord(UNKNOWN), -1, codes - ord(ABSENT))


def levelling_order(targets: NDArray[np.int64], total: int, seed: int) -> NDArray[np.int64]:
    """Return `total` images of [N, C] to repeat, which level their numbers by rarest finding.

    Each next image has the rarest finding that fewest images have by then; all such images are used
    before one is repeated.
    """
    rarest = rarest_findings(targets == 1)
    members = [np.flatnonzero(rarest == finding) for finding in np.unique(rarest)]
    numbers = np.concatenate([len(places) + np.arange(total) for places in members])
    shuffled = (
        numpy_generator(seed, "levelled findings", int(places[0])).permutation(places)
        for places in members
    )
    repeated = np.concatenate([np.resize(places, total) for places in shuffled])
    return repeated[np.argsort(numbers, kind="stable")[:total]]


def in_order_of(
    learnt: Sequence[str], names: Sequence[str], findings: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the findings `names` of images, [N, C], as those that a generator has learnt, [N, D].

    Its other findings are absent, and `No Finding` is present where no other is.
    """
    columns, is_free = dict(zip(names, findings.T, strict=True)), ~(findings == 1).any(axis=1)
    return np.stack(
        [columns.get(name, is_free * means_no_disease(name)) for name in learnt], axis=1
    ).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingReader:
    """Reads the findings of a row: a column for each, or labels in a cell."""

    names: tuple[str, ...]
    data: DataSettings

    def read(self, cells: Mapping[str, str], labels: Collection[str] | None) -> str:
        """Return the findings of a row by its cells, or by the labels of its cell.

        "" if it has none of the columns.
        """
        if labels is not None:
            there = {folded(label) for label in labels}
            absent = ABSENT if labels else UNKNOWN
            return "".join(PRESENT if folded(name) in there else absent for name in self.names)
        if cells.keys().isdisjoint(self.names):
            return ""
        states = [
            self._state(name, cells[name]) if name in cells else UNKNOWN for name in self.names
        ]
        for place, name in enumerate(self.names):
            if means_no_disease(name) and name not in cells and states[place] != PRESENT:
                others = {*states[:place], *states[place + 1 :]}
                states[place] = (
                    ABSENT if PRESENT in others else PRESENT if others == {ABSENT} else UNKNOWN
                )
        return "".join(states)

    def _state(self, name: str, cell: str) -> str:
        word = cell.casefold()
        if word in YES or word in NO:
            return PRESENT if word in YES else ABSENT
        rule, uncertain = "ignore", self.data.uncertain
        if word in UNCERTAIN:
            rule = uncertain if isinstance(uncertain, str) else uncertain.get(name, rule)
        elif word in EMPTY:
            rule = self.data.empty
        return {"ignore": UNKNOWN, "zeros": ABSENT, "ones": PRESENT}[rule]


def united(rows: Sequence[str]) -> str:
    """Return the findings of an image by those of its rows: present if a row says so."""
    states = (
        next((state for state in (PRESENT, ABSENT) if state in column), UNKNOWN)
        for column in zip(*rows, strict=True)
    )
    return "".join(states)


def disputed_findings(names: Sequence[str], rows: Sequence[str]) -> dict[str, int]:
    """Return the findings that rows disagree on, with the number of rows that have them."""
    votes = {
        name: Counter(states) for name, states in zip(names, zip(*rows, strict=True), strict=False)
    }
    return {
        name: count[PRESENT] for name, count in votes.items() if count.keys() >= {PRESENT, ABSENT}
    }


def found_columns(
    settings: TableSettings, columns: Sequence[str], rows: Iterable[Mapping[str, str]]
) -> tuple[str, ...]:
    """Return the columns whose cells say yes, no or neither, and some yes."""
    others = {
        settings.image,
        settings.patient,
        settings.side_column,
        *settings.rows,
    }
    possible = {
        column: False for column in columns if column not in others and not is_view_column(column)
    }
    for cells in rows:
        for column in [*possible]:
            word = cells[column].casefold()
            if word in YES:
                possible[column] = True
            elif not (word in NO or word in UNCERTAIN or word in EMPTY):
                del possible[column]
    return tuple(column for column, has_positives in possible.items() if has_positives)
