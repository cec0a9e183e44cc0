"""Names from strangers' data are text in every format: Markdown and CSV; HTML and the terminal are tested where they are."""

from __future__ import annotations

import csv
import io
from pathlib import PurePosixPath

import pytest

from xraytune.base.files import cell_path, cell_text, csv_table, markdown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("[x](javascript:alert(1))", r"\[x\](javascript:alert(1))"),
        (r"\[x](javascript:1)", r"\\\[x\](javascript:1)"),
        ("a|b`c", r"\|".join("ab") + r"\`c"),
        ("a\n# b\x1b\u202e", r"a\\n# b\\x1b\\u202e"),
        ("small_cnn (0.5)", "small_cnn (0.5)"),
    ],
)
def test_nothing_in_a_name_is_markdown(name: str, shown: str) -> None:
    assert markdown(name) == shown


def test_a_table_has_no_control_characters_and_can_be_read_again() -> None:
    ordinary = ("a b.png", "=1.png", "Müller", "'quoted'", "+a", "שלום")
    hostile = "gnp.\u202eexe\x1b[2J\r"

    rows = [*csv.reader(io.StringIO(csv_table(["file", hostile], [[PurePosixPath(one), one] for one in ordinary])))]

    assert rows[0][1] == r"gnp.\u202eexe\x1b[2J\r"
    assert [cell_path(file) for file, _ in rows[1:]] == [*ordinary]
    assert [cell_text(text) for _, text in rows[1:]] == [*ordinary]
