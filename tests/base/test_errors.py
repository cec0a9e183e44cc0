"""Error messages, and that they survive pickling."""

import pickle
from pathlib import Path

import pytest

from xraytune.base import errors
from xraytune.base.errors import ConfigError, Problem, SourceLine, XraytuneError, join_names

ALL: list[type[XraytuneError]] = [XraytuneError, *XraytuneError.__subclasses__()]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_pickling(kind: type[XraytuneError]) -> None:
    """Ray sends them between processes."""
    error = kind(Problem("unknown value", SourceLine(Path("a.yaml"), 3, "x: y"), "write z"), "and this")

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)

    assert type(again) is kind
    assert str(again) == str(error)
    assert again.problems == error.problems


def test_message_contains_what_where_and_fix() -> None:
    line = SourceLine(Path("gan_ratio.yaml"), 21, "  backbone: {values: [resnet5O]}")
    error = ConfigError(Problem("backbone: unknown value 'resnet5O'", line, "did you mean 'resnet50'?"))

    assert str(error) == (
        "gan_ratio.yaml:21: backbone: unknown value 'resnet5O'\n"
        "  21 | backbone: {values: [resnet5O]}\n"
        "  fix: did you mean 'resnet50'?"
    )


def test_every_error_has_its_exit_code_in_the_table() -> None:
    assert errors.__doc__ is not None
    for kind in ALL[1:]:
        (row,) = [line for line in errors.__doc__.splitlines() if f"- {kind.__name__}" in line]
        assert row.split()[2] == str(kind.exit_code)


def test_line_break_in_name_is_escaped() -> None:
    names = ["a", "b\n  fix: trust me"]

    problem = Problem(f"broken: {join_names(names)}", Path("c\nd"), "replace it")

    assert str(problem).split("\n") == [r"c\nd: broken: a, b\n  fix: trust me", "  fix: replace it"]
