"""The lines and tables of a result, independent of what shows them.

Evaluations and `present/` build them; `cli/console.py` prints them with rich, and `present/page.py`
puts them on a page with Jinja.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Tone: TypeAlias = Literal["plain", "strong", "dim", "good", "busy", "bad"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Styled text, as a line or as a cell of a table."""

    text: str
    tone: Tone = "plain"


Entry: TypeAlias = Cell | str | float | None
"""A cell of a table: text, a number, or None if it is empty."""
Row: TypeAlias = Mapping[str, Entry]
"""The cells of a row, by the name of their column; all rows of a table have the same columns."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table with at least one row, below a title.

    Attributes:
        optional: Columns that are left out on a narrow screen before any other column wraps.
        sortable: Whether the table can be sorted and filtered on a page.
    """

    rows: Sequence[Row]
    title: str = ""
    optional: Collection[str] = ()
    sortable: bool = False

    @property
    def columns(self) -> list[str]:
        """The names of the columns, without those that are empty."""
        names = [*self.rows[0]] if self.rows else []
        return [name for name in names if any(text_of(row[name]) for row in self.rows)]

    def is_text(self, column: str) -> bool:
        """Return whether a column may wrap, and is aligned to the left.

        Numbers are aligned to the right, and shown whole or not at all.
        """
        texts = [text_of(row[column]) for row in self.rows]
        return not all(text == "undefined" or text[:1] in "0123456789#+-<" for text in texts)


Frame: TypeAlias = Sequence[Cell | str | Table]
"""Lines and tables, from top to bottom."""


def text_of(entry: Entry) -> str:
    """Return a cell as text; numbers have up to six digits: `1,250`, `0.0125`, `true`."""
    if isinstance(entry, Cell):
        return entry.text
    if isinstance(entry, bool):
        return f"{entry}".lower()
    if isinstance(entry, int | float):
        return f"{entry:,.6g}"
    return entry or ""


def counts_text(counts: Mapping[str, int]) -> str:
    """Format the numbers of images of each class: `47 NORMAL, 65 PNEUMONIA`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def sentence(text: str) -> str:
    """Return text as a sentence, with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def shown_path(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside; otherwise, the path."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path


def duration(seconds: float) -> str:
    """Format a duration as `0:07`, `12:30` or `3:05:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
