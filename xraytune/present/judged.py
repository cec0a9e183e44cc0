"""The page of a judgement: the verdict, its pictures, and what nobody has checked."""

from pathlib import Path

from xraytune.base.files import write_text
from xraytune.confirm.record import Confirmation, paragraph
from xraytune.present.forest import verdict_parts
from xraytune.present.rendering import render_page


def write_judged(folder: Path, record: Confirmation) -> None:
    """Write `report.html` of a judgement into its folder."""
    methods = paragraph("methods", record)
    text = render_page("judged.html", record=record, methods=methods, **verdict_parts(record))
    write_text(folder / "report.html", text, is_durable=False)
