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
from xraytune.base.files import require_writable, write_text
from xraytune.present.sections import all_charts, sections
from xraytune.present.study import StudyData, read_study
from xraytune.present.tables import Picture, Section, text_of


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
