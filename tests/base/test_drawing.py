"""The content of figure files."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from xraytune.base.drawing import SampleRow, draw_class_bars, draw_sample_grid
from xraytune.base.seeding import numpy_generator

pytestmark = pytest.mark.slow

SVG = "{http://www.w3.org/2000/svg}"
BARS = {"images": {"training": (1349, 3883), "test": (77, 0)}}


def row(name: str, count: int = 3) -> SampleRow:
    images = numpy_generator(0, name).integers(0, 256, (count, 32, 32), dtype=np.uint8)
    return SampleRow(name=name, note=f"{count} images", images=images)


def texts(svg: Path) -> list[str]:
    return [element.text or "" for element in ElementTree.parse(svg).iter(f"{SVG}text")]


def test_the_text_of_an_svg_is_text(tmp_path: Path) -> None:
    _, svg = draw_class_bars(["NORMAL", "PNEUMONIA"], BARS, tmp_path)

    assert sorted(texts(svg)) == sorted(
        ["training", "test", "NORMAL", "PNEUMONIA", "images", "1,349 (26%)", "3,883 (74%)", "77 (100%)", "0 (0%)"]
    )


def test_every_image_of_a_grid_is_in_it_with_its_greys(tmp_path: Path) -> None:
    """The contrast is not stretched. A class without images keeps its row."""
    grey = SampleRow(name="GREY", note="", images=np.full((8, 32, 32), 60, dtype=np.uint8))
    png, svg = draw_sample_grid([row("NORMAL", 0), row("PNEUMONIA", 5), grey], tmp_path)
    _, alone = draw_sample_grid([row("NORMAL", 0)], tmp_path / "alone")

    assert len(list(ElementTree.parse(svg).iter(f"{SVG}image"))) == 13
    assert [text for text in texts(svg) if text] == ["NORMAL", "0 images", "PNEUMONIA", "5 images", "GREY"]
    assert "NORMAL" in texts(alone)
    with Image.open(png) as opened:
        assert opened.size[0] == 1800
        greys = np.asarray(opened.convert("L"))
    assert (greys == 60).sum() > 0.05 * greys.size


def test_figures_are_reproducible_to_the_byte_under_any_user_settings(tmp_path: Path) -> None:
    def draw(folder: Path) -> dict[str, bytes]:
        files = [*draw_sample_grid([row("NORMAL")], folder), *draw_class_bars(["a", "b"], BARS, folder)]
        return {file.name: file.read_bytes() for file in files}

    plain = draw(tmp_path / "plain")
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "savefig.bbox": "tight", "text.antialiased": False}
    ):
        changed = draw(tmp_path / "changed")
        assert matplotlib.rcParams["svg.fonttype"] == "path"

    assert plain == changed
    assert not any(b"<dc:date>" in content for content in plain.values())


def test_any_folder_name_is_a_class_name_and_a_hundred_classes_fit(tmp_path: Path) -> None:
    """Neither formulas nor markup; a script that the font lacks is no error."""
    names = ["$x$", "a$b", "正常", "<&>", "x" * 200, "x_1^2", "\\frac", "$\\bad{$", "a\x1b[2J\n"]
    names += [f"class {number}" for number in range(91)]
    png, svg = draw_sample_grid([row(name, 1) for name in names], tmp_path)
    _, other = draw_class_bars(names, {"images": {"training": (1,) * len(names)}}, tmp_path)

    shown = {
        (name if len(name) < 25 else name[:23] + "…").replace("\x1b", "\ufffd").replace("\n", "\ufffd")
        for name in names
    }
    assert shown <= {*texts(svg)}
    assert shown <= {*texts(other)}
    with Image.open(png) as opened:
        assert max(opened.size) <= 12_000
