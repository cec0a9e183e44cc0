"""Error messages, and names from strangers' data, which are text in Markdown and CSV, too."""

import pickle
from pathlib import Path

import pytest

from xraytune.base.errors import FileLine, Problem, XraytuneError
from xraytune.base.files import markdown

ALL: list[type[XraytuneError]] = [XraytuneError, *XraytuneError.__subclasses__()]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_pickling(kind: type[XraytuneError]) -> None:
    """Ray sends them between processes."""
    error = kind(
        Problem("unknown value", FileLine(Path("a.yaml"), 3, "x: y"), "write z"), "and this"
    )

    again = pickle.loads(pickle.dumps(error))  # noqa: S301 (made here)

    assert type(again) is kind
    assert str(again) == str(error)
    assert again.problems == error.problems


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
        ("a\n# b\x1b\u202e", r"a\\n# b\\x1b\\u202e"),
    ],
)
def test_nothing_in_a_name_is_markdown(name: str, shown: str) -> None:
    assert markdown(name) == shown
