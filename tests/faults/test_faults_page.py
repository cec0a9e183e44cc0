"""docs/faults.md and docs/security.md name a test for each fault, and each test is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("page", "fewest"), [("faults.md", 50), ("security.md", 15)])
def test_each_fault_row_names_an_existing_test(page: str, fewest: int) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition("## Results of the drills")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what happens")]
    named = [re.search(r"`([\w/]+\.py)(?:::(\w+))?` \|$", row) for row in rows]

    assert len(rows) >= fewest
    for row, name in zip(rows, named, strict=True):
        assert name, row
        test = (ROOT / "tests" / name[1]).read_text(encoding="utf-8")
        assert name[2] is None or f"def {name[2]}(" in test, row
