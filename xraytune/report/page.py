"""Render a report as one HTML file that needs no network: Plotly, charts, pictures and style are inside.

It can also be served on this machine; an open page then reloads when the study has changed.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from xraytune.errors import ConfigError, MachineError, Problem
from xraytune.files import csv_table, new_folder, require_new, write_text
from xraytune.report.sections import Picture, Section, all_charts, sections
from xraytune.report.study import StudyData, read_study

PAGE_FILE = "report.html"
HOST = "127.0.0.1"


def write_report(study: Path, *, out: Path | None = None, cache: Path | None = None) -> Path:
    """Write the report of a study, and return its path; a search may be running on the study.

    Args:
        study: Folder of the study.
        out: The file to write or to replace; default: `report.html` in the study.
        cache: Artifact cache of the search; default: the one next to the studies.

    Raises:
        StudyError: There is no study, or it is damaged.
        ConfigError: `out` is a folder.
    """
    data = read_study(study, cache)
    path = out or data.folder.path / PAGE_FILE
    if path.is_dir():
        raise ConfigError(Problem("this is a folder", path, "give a file, such as report.html"))
    write_text(path, render(data), durable=False)
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
        for part in sections(read_study(study, cache)):
            tables = [(table.columns, table.rows) for table in part.tables]
            if part.facts:
                tables.append((("name", "value"), part.facts))
            for number, (columns, rows) in enumerate(tables, start=1):
                name = part.id if len(tables) == 1 else f"{part.id}-{number}"
                write_text(folder / f"{name}.csv", csv_table(columns, rows))
    return tuple(sorted(out.iterdir()))


def render(data: StudyData, parts: Sequence[Section] | None = None, *, live: str = "") -> str:
    """Return the page, or one of other sections. With the version of a served study, `live`, it asks for a newer one."""
    parts = sections(data) if parts is None else parts
    templates = files("xraytune.report") / "templates"
    environment = Environment(loader=PackageLoader("xraytune.report"), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"data_uri": _data_uri, "code": _code}
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html").render(
        name=data.view.name,
        view=data.view,
        live=live,
        sections=parts,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        charts=[asdict(chart) for chart in all_charts(parts)],
        plotly=_plotly(),
        style=Markup((templates / "style.css").read_text("utf-8")),
        script=Markup((templates / "page.js").read_text("utf-8")),
    )


@cache
def _plotly() -> str:
    """Return Plotly's JavaScript, compressed: a third of its size."""
    from plotly.offline import get_plotlyjs  # takes most of a second

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _data_uri(picture: Picture) -> str:
    return f"data:image/{picture.format};base64,{base64.b64encode(picture.content).decode()}"


def _code(text: str) -> Markup:
    """Return escaped text with parts in backticks as code elements."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def serve(study: Path, *, port: int = 8888, cache: Path | None = None, on_start: Callable[[str], None]) -> None:
    """Serve the report of a study until interrupted; `on_start` is called with its address.

    Args:
        study: Folder of the study.
        port: 0 chooses a free one.
        cache: See `write_report`.
        on_start: Called once the server accepts connections.

    Raises:
        StudyError: There is no study, or it is damaged.
        MachineError: The port is in use.
    """
    page = _Page(study, cache)
    page.html()  # an error comes before the address

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/": page.html, "/version": page.version}.get(self.path)
            content = found().encode() if found else b"not found"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8" if self.path == "/" else "text/plain")
            self.send_header("Content-Length", f"{len(content)}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    try:
        server = ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        fix = "give another one with --port, or 0 for a free one"
        raise MachineError(Problem(f"cannot listen on port {port}: {error.strerror}", fix=fix)) from error
    with server:
        on_start(f"http://{HOST}:{server.server_port}/")
        server.serve_forever()


class _Page:
    """The page of a study, rendered again when a file of the study has changed."""

    def __init__(self, study: Path, cache: Path | None) -> None:
        self._study, self._cache, self._lock = study, cache, Lock()
        self._version = self._html = ""

    def version(self) -> str:
        """Return a text that changes with the study."""
        files = [self._study / name for name in ("optuna.journal", "confirm/verdict.json")]
        return " ".join(f"{file.stat().st_mtime_ns}" for file in files if file.exists())

    def html(self) -> str:
        """Return the current page."""
        with self._lock:
            if (version := self.version()) != self._version:
                self._html, self._version = render(read_study(self._study, self._cache), live=version), version
            return self._html
