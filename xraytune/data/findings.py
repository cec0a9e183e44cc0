"""Findings: several labels of one image, each present, absent or unknown.

An image's findings are a text with one character for each, such as `10?`; `numbers_of` returns them
as numbers.
"""

from collections.abc import Sequence

import numpy as np

from xraytune.base.arrays import Int64Array
from xraytune.base.seeding import numpy_generator
from xraytune.data.guesses import means_no_disease
from xraytune.stats.classification import rarest_findings

PRESENT, ABSENT, UNKNOWN = "10?"


def numbers_of(findings: Sequence[str]) -> Int64Array:
    """Return the findings of images as numbers, int64 [N, C]: 1, 0, or -1 if unknown."""
    states = np.array([[*text] for text in findings])
    return np.select([states == PRESENT, states == ABSENT], [1, 0], -1)


def levelling_order(targets: Int64Array, total: int, seed: int) -> Int64Array:
    """Return the positions of `total` images to repeat, so that rarest findings become level.

    `targets` are the findings of the images, [N, C]. Each next image has the rarest finding that
    the fewest images have so far; all images with this finding are used before one is repeated.
    """
    rarest = rarest_findings(targets == 1)
    members = [np.flatnonzero(rarest == finding) for finding in np.unique(rarest)]
    ranks = np.concatenate([len(indices) + np.arange(total) for indices in members])
    shuffled = (
        numpy_generator(seed, "levelled findings", int(indices[0])).permutation(indices)
        for indices in members
    )
    repeated = np.concatenate([np.resize(indices, total) for indices in shuffled])
    return repeated[np.argsort(ranks, kind="stable")[:total]]


def in_order_of(learnt: Sequence[str], names: Sequence[str], findings: Int64Array) -> Int64Array:
    """Convert findings `names` of images, [N, C], to findings that a generator has learnt, [N, D].

    Findings that only the generator has are absent, and `No Finding` is present where no other
    finding is.
    """
    columns = dict(zip(names, findings.T, strict=True))
    is_free = ~(findings == 1).any(axis=1)
    ordered = [columns.get(name, is_free & means_no_disease(name)) for name in learnt]
    return np.stack(ordered, axis=1).astype(np.int64)
