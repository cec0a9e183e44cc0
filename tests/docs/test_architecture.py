"""The files that the architecture page lists exist, and each is reached from one before it."""

import re
from pathlib import Path

import pytest

from tests.docs.commands import ROOT

PACKAGE = ROOT / "xraytune"
PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")


def files_of(section: str) -> list[str]:
    """Return the files of a section's numbered list, in order."""
    (text,) = re.findall(rf"## {section}\n(.*?)\n## ", PAGE, flags=re.DOTALL)
    steps = re.findall(r"^\d+\. (.*?):", text, flags=re.MULTILINE)
    return re.findall(r"`(\w[\w/]*\.py)`", " ".join(steps))


def modules_of(file: str) -> set[str]:
    """Return the modules that a file imports, or names in a string to load them later."""
    text = (PACKAGE / file).read_text("utf-8")
    return set(re.findall(r"xraytune(?:\.\w+)+", text))


def is_linked(file: str, other: str) -> bool:
    module = "xraytune." + file.removesuffix(".py").replace("/", ".")
    return any(name == module or name.startswith(f"{module}.") for name in modules_of(other))


@pytest.mark.parametrize(
    ("section", "most"),
    [
        ("One image", 10),
        ("One trial", 25),
        ("One parameter", 9),
        ("One result", 12),
        ("One test patient", 13),
        ("One kill", 12),
    ],
)
def test_a_path_through_the_package_is_as_short_as_the_page_says(section: str, most: int) -> None:
    files = files_of(section)

    assert 4 < len(files) <= most
    for place, file in enumerate(files):
        assert Path(PACKAGE / file).is_file()
        earlier = files[:place]
        is_reached = any(is_linked(file, other) or is_linked(other, file) for other in earlier)
        assert is_reached or not earlier, f"{file} is not reached"
