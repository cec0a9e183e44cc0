"""Render a report as one HTML file that needs no network: Plotly, charts, pictures and style are inside."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from xraytune.config.settings import WandbSettings
from xraytune.errors import ConfigError, Problem
from xraytune.files import write_text
from xraytune.report.sections import Picture, Section, all_charts, sections
from xraytune.report.study import StudyData, read_study
from xraytune.tracking.tracker import TrackedRun
from xraytune.tracking.wandb import publish

PAGE_FILE = "report.html"


def write_report(study: Path, *, out: Path | None = None, cache: Path | None = None, wandb: bool = False) -> Path:
    """Write the report of a study, and return its path; a search may be running on the study.

    Args:
        study: Folder of the study.
        out: The file to write or to replace; default: `report.html` in the study.
        cache: Artifact cache of the search; default: the one next to the studies.
        wandb: Also send the page to W&B, as a run in the study's group; if that fails, only warn.

    Raises:
        StudyError: There is no study, or it is damaged.
        ConfigError: `out` is a folder.
    """
    data = read_study(study, cache)
    path = out or data.folder.path / PAGE_FILE
    if path.is_dir():
        raise ConfigError(Problem("this is a folder", path, "give a file, such as report.html"))
    write_text(path, render(data), durable=False)
    if wandb:
        settings, folder = data.space.settings.tracking.wandb, data.folder.path
        name, identity = folder.name, data.folder.identity()
        run = TrackedRun(kind="report", study=name, study_identity=identity, label=f"{name} report", folder=folder)
        verdict = data.verdict["verdict"] if data.verdict else None
        publish(settings or WandbSettings(), run, {"verdict": verdict}, page=path)
    return path


def render(data: StudyData, parts: Sequence[Section] | None = None, *, live: str = "") -> str:
    """Return the page, or one of other sections. With the version of a served study, `live`, it asks for a newer one."""
    parts = sections(data) if parts is None else parts
    templates = files("xraytune.report") / "templates"
    return template("page.html", data_uri=_data_uri, code=_code).render(
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


def template(name: str, *, finalize: Callable[[Any], Any] | None = None, **filters: Callable[[Any], Any]) -> Template:
    """Return a template with filters; text is escaped for HTML, or for another format by `finalize` returning Markup."""
    environment = Environment(
        loader=PackageLoader("xraytune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=finalize is not None,
        lstrip_blocks=finalize is not None,
    )
    environment.filters |= filters
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template(name)


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
