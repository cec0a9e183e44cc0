"""Every sentence of the pages that promises a protection names a test of it (promises.yaml)."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from tests.docs.commands import ROOT

PAGES = ["README.md", "CHANGELOG.md"]
PAGES += sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))
ENTRIES = yaml.safe_load(Path(__file__).with_name("promises.yaml").read_text("utf-8"))
STARTS = r"\n\s*\n|\n(?=\s*(?:[-#>*]|\d+\.) )|\|"
"""What ends a paragraph: an empty line, a heading, the next item of a list, a cell's border."""


def sentences(page: str) -> list[str]:
    paragraphs = re.split(STARTS, (ROOT / page).read_text("utf-8"))
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return [each for paragraph in joined for each in re.split(r"(?<=[.?!]) ", paragraph)]


def test_there_are_no_entries_of_other_pages() -> None:
    assert ENTRIES.keys() <= {*PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_a_promise_of_a_page_names_a_test_that_exists(page: str) -> None:
    """A sentence that promises nothing has an entry that says what it is `about`."""
    written = sentences(page)
    entries = ENTRIES.get(page, [])

    says = [entry["says"] for entry in entries]
    assert [text for text in says if not any(text in each for each in written)] == []
    for entry in entries:
        if "about" not in entry:
            file, _, name = entry["test"].partition("::")
            tree = ast.parse((ROOT / file).read_text("utf-8"))
            assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}
