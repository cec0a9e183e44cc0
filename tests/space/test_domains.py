"""The corners of domains."""

from functools import partial

import pytest

from xraytune.space.domains import Choices, Domain, Range, Value

integers = partial(Range, is_integer=True)


@pytest.mark.parametrize(
    ("domain", "cuts", "corners"),
    [
        (Choices((3, 1)), [2.0], (3, 1)),
        (integers(low=2, high=22), [], (2, 22)),
        (integers(low=2, high=22), [8], (2, 7, 8, 9, 22)),
        (integers(low=2, high=22), [2.0, 22.0, 99.0, -99.0], (2, 3, 21, 22)),
        (Range(low=1.0, high=3.0), [1.5], (1.0, 3.0)),
    ],
)
def test_corners_are_the_ends_and_the_neighbours_of_cuts(
    domain: Domain, cuts: list[float], corners: tuple[Value, ...]
) -> None:
    """A condition that holds somewhere in the domain, and one that fails somewhere, each do so at a corner."""
    assert domain.corners(cuts) == corners
