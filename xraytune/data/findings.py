"""Findings: several labels of one image, each present, absent or unknown.

An image's findings are a text with one character for each, such as `10?`; `numbers_of` returns them
as numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

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
from xraytune.space.settings import DataSettings
from xraytune.stats.classification import rarest_findings

PRESENT, ABSENT, UNKNOWN = "10?"


def numbers_of(findings: Sequence[str]) -> NDArray[np.int64]:
    """Return the findings of images as numbers, int64 [N, C]: 1, 0, or -1 if unknown."""
    states = np.array([[*text] for text in findings])
    return np.select([states == PRESENT, states == ABSENT], [1, 0], -1)


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
    columns = dict(zip(names, findings.T, strict=True))
    is_free = ~(findings == 1).any(axis=1)
    ordered = [columns.get(name, is_free * means_no_disease(name)) for name in learnt]
    return np.stack(ordered, axis=1).astype(np.int64)


def findings_of_labels(names: Sequence[str], labels: Collection[str]) -> str:
    """Return the findings of a row by the labels in its cell; none is known if it is empty."""
    there = {folded(label) for label in labels}
    absent = ABSENT if there else UNKNOWN
    return "".join(PRESENT if folded(name) in there else absent for name in names)


def findings_of_cells(names: Sequence[str], cells: Mapping[str, str], data: DataSettings) -> str:
    """Return the findings of a row by a column for each, unknown without one.

    `No Finding` without a column is the absence of all others.
    """
    states = [_state(name, cells[name], data) if name in cells else UNKNOWN for name in names]
    for place, name in enumerate(names):
        if name not in cells and means_no_disease(name):
            others = {*states[:place], *states[place + 1 :]}
            if PRESENT in others:
                states[place] = ABSENT
            elif others == {ABSENT}:
                states[place] = PRESENT
    return "".join(states)


def _state(name: str, cell: str, data: DataSettings) -> str:
    word = cell.casefold()
    if word in YES:
        return PRESENT
    if word in NO:
        return ABSENT
    use = "ignore"
    if word in UNCERTAIN:
        use = data.uncertain if isinstance(data.uncertain, str) else data.uncertain.get(name, use)
    elif word in EMPTY:
        use = data.empty
    return {"ignore": UNKNOWN, "zeros": ABSENT, "ones": PRESENT}[use]


def unite_findings(rows: Sequence[str]) -> str:
    """Return the findings of an image by those of its rows: present if a row says so."""
    order = f"{PRESENT}{ABSENT}{UNKNOWN}"
    return "".join(min(states, key=order.index) for states in zip(*rows, strict=True))


def finding_columns(columns: Iterable[str], rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the columns whose cells say yes, no or neither, and some yes."""
    known = YES | NO | UNCERTAIN | EMPTY
    found = []
    for column in columns:
        words = {row[column].casefold() for row in rows if column in row}
        if words <= known and words & YES and not is_view_column(column):
            found.append(column)
    return found
