"""Render a report as one HTML file that needs no network: Plotly, charts, pictures and style are inside."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from xraytune.base.errors import ConfigError, Problem, printable
from xraytune.base.files import csv_table, new_folder, require_new, require_writable, write_text
from xraytune.present.sections import all_charts, sections
from xraytune.present.study import StudyData, read_study
from xraytune.present.tables import Cell, Picture, Section, Table, text_of


def write_report(study: Path, *, out: Path | None = None, cache: Path | None = None) -> Path:
    """Write the report of a study, and return its path; a search may be running on the study.

    Only those who can read the study's folder can read the page.

    Args:
        study: Folder of the study.
        out: The file to write or to replace; default: `report.html` in the study.
        cache: Artifact cache of the search; default: the one next to the studies.

    Raises:
        StudyError: There is no study, or it is damaged.
        ConfigError: `out` is a folder.
    """
    path = out or study.resolve() / "report.html"
    if path.is_dir():
        raise ConfigError(Problem("this is a folder", path, "give a file, such as report.html"))
    require_writable(path.parent)
    data = read_study(study, cache)
    mode = 0o600 | data.folder.path.stat().st_mode & 0o066
    write_text(path, render(data, sections(data)), durable=False, mode=mode)
    return path


def write_tables(study: Path, *, out: Path, cache: Path | None = None) -> tuple[Path, ...]:
    """Write each table of the report as a CSV file to a new folder, and return the files.

    Args:
        study: Folder of the study; a search may be running on it.
        out: The folder to create.
        cache: See `write_report`.

    Raises:
        StudyError: There is no study, or it is damaged.
        ConfigError: `out` exists.
    """
    require_new(out)
    with new_folder(out) as folder:
        for section in sections(read_study(study, cache)):
            tables = [*section.tables, *([Table(("name", "value"), section.facts)] if section.facts else [])]
            for number, table in enumerate(tables, start=1):
                file = section.id if number == 1 else f"{section.id}-{number}"
                names = [column.name.replace("\n", " ") for column in table.headings]
                rows = ([cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows)
                write_text(folder / f"{file}.csv", csv_table(names, rows))
    return tuple(sorted(out.iterdir()))


def render(data: StudyData, parts: Sequence[Section]) -> str:
    """Return a page of these sections."""
    templates = files("xraytune.present") / "templates"
    environment = Environment(
        loader=PackageLoader("xraytune.present"), autoescape=True, undefined=StrictUndefined, finalize=_shown
    )
    environment.filters |= {"data_uri": _data_uri, "code": _code, "text": text_of}
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html").render(
        name=data.view.name,
        view=data.view,
        sections=parts,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        charts=_shown([asdict(chart) for chart in all_charts(parts)]),
        plotly=_plotly(),
        style=Markup((templates / "style.css").read_text("utf-8")),
        script=Markup((templates / "page.js").read_text("utf-8")),
    )


def _shown(value: Any) -> Any:
    """Escape control characters in a value of the page, at any depth; Jinja escapes markup."""
    if isinstance(value, str):
        return value if isinstance(value, Markup) else printable(value)
    if isinstance(value, Mapping):
        return {name: _shown(inner) for name, inner in value.items()}
    return [*map(_shown, value)] if isinstance(value, list | tuple) else value


@cache
def _plotly() -> str:
    """Return Plotly's JavaScript, compressed: a third of its size."""
    from plotly.offline import get_plotlyjs  # takes most of a second

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _data_uri(picture: Picture) -> str:
    kind = "jpeg" if picture.content[:1] == b"\xff" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"


def _code(text: str) -> Markup:
    """Return escaped text with parts in backticks as code elements."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(printable(text)))))
