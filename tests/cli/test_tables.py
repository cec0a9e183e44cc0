"""Tables on narrow screens: a column is whole, or named as left out."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.confirm.test_curve import curve_of, point
from tests.study.studies import trial, view_of
from xraytune.base.tables import Cell, Frame, Table, text_of
from xraytune.cli import console
from xraytune.present.curve import curve_frame
from xraytune.present.trials import status_frame
from xraytune.space.parameters import Parameters

NUMBERS = st.sampled_from(["0.798 ± 0.073", "-0.006 ± 0.027\n12 (4 to more than 300)", "1,250"])
WORDS = st.text("abcXYZ_-/äß漢", min_size=1, max_size=24)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
WIDTHS = st.integers(40, 200)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables with columns of numbers, of texts, and of both."""
    names = draw(st.lists(TEXTS, min_size=1, max_size=9, unique=True))
    cells = {name: draw(st.sampled_from([NUMBERS, TEXTS, NUMBERS | TEXTS])) for name in names}
    count = draw(st.integers(1, 3))
    rows = [{name: draw(cells[name]) for name in names} for _ in range(count)]
    return Table(rows, optional=draw(st.sets(st.sampled_from(names))) - {names[0]})


def printed(width: int, *parts: Cell | str | Table) -> str:
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console, "_OUT", Console(width=width, file=output))
        console.show(*parts)
    return output.getvalue()


def require_whole(table: Table, width: int) -> None:
    """Compare what is printed with the cells: each word of a column, or the column's name."""
    output = printed(width, table)
    shown, _, note = output.partition("left out on this narrow screen:")
    left_out = "".join(note.split()).partition("(COLUMNS")[0].split(",")
    names = [name for name in table.columns if "".join(name.split()) not in left_out]
    assert names[:1] == table.columns[:1]
    for name in names:
        cells = [text_of(row[name]) for row in table.rows]
        for piece in (
            " ".join(cells).split() if table.is_text(name) else "\n".join(cells).split("\n")
        ):
            is_too_long = name == table.columns[0] and cell_len(piece) > width
            assert piece in shown or is_too_long, output
    assert all(cell_len(line.rstrip()) <= width for line in shown.splitlines())


@given(table=tables(), width=WIDTHS)
def test_no_table_is_cut_inside_a_cell(table: Table, width: int) -> None:
    require_whole(table, width)


CURVE = curve_of(*(point(n, 1.0, -0.0213, 0.0101, 0.0415, 9.0, 5.0, 80.0) for n in (20, 40, 80)))
FRAMES: dict[str, Frame] = {
    "curve": [*curve_frame(CURVE)],
    "status": status_frame(view_of(trial(0, "complete", 0.93, 0.91), trial(1, "running"))),
}


def test_a_narrow_screen_shows_the_learning_rate() -> None:
    """A command to copy is not broken."""
    mix = Parameters(source="gan", augmentation="flip", weight_decay=1e-4, lr=3e-3)
    trials = (trial(number, "complete", 0.95, parameters=mix) for number in range(2))
    view = view_of(*trials, searched=("source", "augmentation", "weight_decay", "lr"))

    shown = printed(80, *status_frame(view))

    assert max(len(line) for line in shown.splitlines() if "xraytune " not in line) <= 80
    assert "0.003" in shown


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_frame_of_a_command_is_whole_at_each_width(frame: Frame) -> None:
    for table in (part for part in frame if isinstance(part, Table)):
        for width in range(40, 201):
            require_whole(table, width)
