"""Render a report as one HTML file that needs no network: Plotly and pictures are inside."""

from __future__ import annotations

import base64
import gzip
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from xraytune.base.errors import ConfigError, Problem, printable
from xraytune.base.files import require_writable, write_text
from xraytune.base.tables import duration, sentence, text_of
from xraytune.present.sections import Picture, page_content
from xraytune.present.study import read_study


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
    write_text(path, _render(page_content(data)), durable=False, mode=mode)
    return path


def _render(content: dict[str, Any]) -> str:
    environment = Environment(
        loader=PackageLoader("xraytune.present"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_escape_controls,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "code": _mark_code,
        "data_uri": _data_uri,
        "duration": duration,
        "json": lambda figure: Markup(figure.to_json()),  # Plotly escapes markup
        "sentence": sentence,
        "text": text_of,
    }
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")
    template = environment.get_template("page.html")
    return template.render(**content, plotly=_pack_plotly(), written=written)


def _escape_controls(value: object) -> object:
    """Escape control characters, such as those of file names; Jinja escapes markup."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(str(value)) if is_text else value


@cache
def _pack_plotly() -> str:
    """Return Plotly's JavaScript, compressed: a third of its size."""
    from plotly.offline import get_plotlyjs  # takes most of a second

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _data_uri(picture: Picture) -> str:
    kind = "jpeg" if picture.content[:1] == b"\xff" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"


def _mark_code(text: str) -> Markup:
    """Return escaped text with parts in backticks as code elements."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(printable(text)))))
