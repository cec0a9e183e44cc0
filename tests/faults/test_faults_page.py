"""docs/faults.md names a test for each fault, and each test is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAULTS = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").partition("## What the drills printed")[0]


def test_each_fault_names_the_test_that_causes_it() -> None:
    rows = [line for line in FAULTS.splitlines() if line.startswith("| ") and "| what" not in line]
    rows = [row for row in rows if not row.startswith("| what happens")]
    named = [re.search(r"`([\w/]+\.py)(?:::(\w+))?` \|$", row) for row in rows]

    assert len(rows) >= 30
    for row, name in zip(rows, named, strict=True):
        assert name, row
        text = (ROOT / "tests" / name[1]).read_text(encoding="utf-8")
        assert name[2] is None or f"def {name[2]}(" in text, row
