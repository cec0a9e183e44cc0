"""`xraytune status STUDY`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from xraytune.cli import console
from xraytune.cli.options import AsJson, StudyArgument
from xraytune.cli.study_frame import status_frame
from xraytune.records import Json

if TYPE_CHECKING:
    from xraytune.search.status import StudyView


def status(study: StudyArgument, as_json: AsJson = False) -> None:
    """Say how a study stands, also while it is searched: all trials, the best so far, the time left."""
    from xraytune.search.status import status

    view = status(study)
    if as_json:
        console.show_json(_content(view))
    else:
        console.show(status_frame(view))


def _content(view: StudyView) -> dict[str, Json]:
    content: dict[str, Json] = asdict(view)
    return content | {"best": view.best.number if view.best is not None else None}
