"""The content of figure files."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from xraytune.base.drawing import drawable, new_figure

pytestmark = pytest.mark.slow


def draw(folder: Path, names: list[str], height: float = 3) -> tuple[Path, Path]:
    """Draw bars with these names."""
    png, svg = folder / "bars.png", folder / "bars.svg"
    with new_figure((png, svg), height) as figure:
        axes = figure.add_subplot()
        axes.barh(range(len(names)), 1)
        axes.set_yticks(
            range(len(names)), labels=[drawable(name) for name in names], parse_math=False
        )
    return png, svg


def test_any_folder_name_is_text(tmp_path: Path) -> None:
    """Neither formulas nor markup; a script that the font lacks is no error."""
    names = ["$x$", "a$b", "正常", "<&>", "x" * 200, "x_1^2", "\\frac", "$\\bad{$", "a\x1b[2J\n"]
    _, svg = draw(tmp_path, names)

    shown = {
        (name if len(name) < 25 else name[:23] + "…")
        .replace("\x1b", "\ufffd")
        .replace("\n", "\ufffd")
        for name in names
    }
    assert shown <= {
        element.text for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")
    }
