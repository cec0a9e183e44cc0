"""What a result looks like, whatever shows it: lines, tables and sections, without a terminal, HTML or a file format.

The functions of this folder build them from typed records. `cli/console.py` prints them, and `page.py` writes them as HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from xraytune.present.charts import Chart

Tone: TypeAlias = Literal["plain", "strong", "dim", "good", "busy", "bad"]


@dataclass(frozen=True, slots=True)
class Cell:
    """Styled text: a line, or a cell of a table."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    On a narrow screen, `optional` ones are left out, the last first; then the first and `flexible` ones wrap; then further
    ones are left out.
    """

    name: str
    align: Literal["left", "right"] = "left"
    flexible: bool = False
    optional: bool = False


Entry: TypeAlias = Cell | str | float | None
"""A cell of a table: text or a number; None is empty."""
Row: TypeAlias = Sequence[Entry]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a title; a plain string is a left-aligned column. On a page, `sortable` ones can also be filtered.

    `details` are folded on a page, and left out in the terminal.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Row]
    title: str = ""
    sortable: bool = False
    details: bool = False

    @property
    def headings(self) -> tuple[Column, ...]:
        """The columns, all as records."""
        return tuple(Column(column) if isinstance(column, str) else column for column in self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture, and what it shows."""

    content: bytes
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a result. Charts, pictures and the navigation are shown on a page only.

    Attributes:
        id: Its name in links; `link` is its name in the navigation.
        lead: The most important sentence, in a `tone`.
        notes: Paragraphs below it; `code` stands in backticks.
        charts: Large charts, one below the other; `small_charts` are side by side.
        pictures: Below the tables; a `gallery` of small ones is above.
        facts: Names and values, in a grid.
        commands: What reproduces it, to copy.
    """

    id: str = ""
    title: str = ""
    link: str = ""
    lead: str = ""
    tone: Tone = "plain"
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    small_charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    gallery: Sequence[Picture] = ()
    facts: Sequence[tuple[str, str]] = ()
    commands: Sequence[str] = ()


Frame: TypeAlias = Sequence[Cell | str | Table]
"""Lines and tables, from top to bottom."""


def facts(*rows: tuple[str, str]) -> Table:
    """Return a table of names and values, without those whose value is empty."""
    shown = [(Cell(name, "dim"), value) for name, value in rows if value]
    return Table(("", Column("", flexible=True)), shown)


def numbers(*names: str) -> list[Column | str]:
    """Return columns of numbers, which are aligned to the right."""
    return [Column(name, "right") for name in names]


def text_of(entry: Entry) -> str:
    """Return a cell as text: numbers with up to six digits, such as `1,250` and `0.0125`; `true` and `false`."""
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
    """Return text as a sentence: a capital letter first, a full stop last."""
    return f"{text[:1].upper()}{text[1:]}."


def shown_path(path: Path) -> Path:
    """Return the path relative to the current folder if it is inside, else unchanged."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def duration(seconds: float) -> str:
    """Format as `0:07`, `12:30` or `3:05:00`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
