"""The page of a judgement: the verdict, its pictures, and what nobody has checked."""

from datetime import datetime
from pathlib import Path

from xraytune.base.files import write_text
from xraytune.confirm.record import Confirmation, paragraph
from xraytune.present.forest import plot_differences, plot_subgroups
from xraytune.present.rendering import render_page
from xraytune.present.verdict import secondary_table, verdict_frame


def write_judged(folder: Path, record: Confirmation) -> None:
    """Write `report.html` of a judgement into its folder."""
    text = render_page(
        "judged.html",
        record=record,
        verdict=verdict_frame(record),
        differences=plot_differences(record.finalists[0], record.metric, record.rope),
        groups=plot_subgroups(record),
        secondary=secondary_table(record),
        methods=paragraph("methods", record),
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )
    write_text(folder / "report.html", text, is_durable=False)
