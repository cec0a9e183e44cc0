"""Domains: membership, grid points, corners and formatting."""

from functools import partial

import pytest
from optuna.trial import FixedTrial

from xraytune.base.records import Json
from xraytune.space.domains import Choices, Domain, Range, Value

integers = partial(Range, is_integer=True)


@pytest.mark.parametrize(
    ("domain", "spec", "text"),
    [
        (Choices(("gan",)), {"value": "gan"}, "gan"),
        (Choices(("gan", 2)), {"values": ["gan", 2]}, "gan or 2"),
        (Choices((True, 0, None)), {"values": [True, 0, None]}, "true or 0 or not set"),
        (Choices((False,)), {"value": False}, "false"),
        (integers(low=1, high=9), {"min": 1, "max": 9, "distribution": "int_uniform"}, "1 to 9"),
        (integers(low=1, high=9, is_log=True), {"min": 1, "max": 9, "distribution": "log_uniform_values"}, "1 to 9"),
        (Range(low=0.0, high=0.5), {"min": 0.0, "max": 0.5, "distribution": "uniform"}, "0 to 0.5"),
        (Range(low=1e-5, high=0.5, is_log=True), {"distribution": "log_uniform_values"}, "1e-05 to 0.5"),
    ],
)
def test_a_domain_is_formatted_for_files_and_for_messages(domain: Domain, spec: dict[str, Json], text: str) -> None:
    assert domain.spec() == domain.spec() | spec
    assert str(domain) == text


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (Choices(("gan", 2)), ["gan", 2], ["none", 1]),
        (integers(low=2, high=8), [2, 5, 8], [-1, 1, 9, 5.0, "5", None]),
        (Range(low=0.5, high=2.0), [0.5, 0.7, 1, 2.0], [0.4, 2.1, True, "1", None]),
    ],
)
def test_membership(domain: Domain, inside: list[Value], outside: list[Value]) -> None:
    assert [value for value in [*inside, *outside] if domain.contains(value)] == inside


@pytest.mark.parametrize(
    ("domain", "points"),
    [
        (Choices((3, 1)), [3, 1]),
        (integers(low=1, high=3), [1, 2, 3]),
        (Range(low=0.1, high=0.7), None),
    ],
)
def test_a_grid_has_every_point_in_order(domain: Domain, points: list[Value] | None) -> None:
    found = domain.points()

    assert (None if found is None else list(found)) == points


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


@pytest.mark.parametrize(
    ("domain", "sampled", "value"),
    [
        (Choices((7,)), {}, 7),
        (Choices((7, 8)), {"x": 8}, 8),
        (integers(low=1, high=5), {"x": 4}, 4),
        (Range(low=1, high=5), {"x": 2.5}, 2.5),
    ],
)
def test_only_a_constant_is_not_sampled(domain: Domain, sampled: dict[str, Value], value: Value) -> None:
    assert domain.is_open == bool(sampled)
    assert domain.suggest(FixedTrial(sampled), "x") == value
