"""`xraytune demo [FOLDER]`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console, data, evaluate, export, search, train
from xraytune.cli.console import Column, Frame, Table
from xraytune.cli.search import SearchScreen

if TYPE_CHECKING:
    from xraytune.export.demo import Demo, Outcome

_SOURCES = {
    "none": "none: real images alone",
    "duplicate": "duplicate: real images drawn again",
    "gan": "gan: GAN images",
}


def demo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where everything is put.")] = Path("demo"),
    quick: Annotated[bool, typer.Option("--quick", help="A short way, in FOLDER/quick: about a minute.")] = False,
) -> None:
    """Go the whole way on phantom X-rays, in minutes: search, export, train, evaluate."""
    from xraytune.export.demo import demo

    console.say("From X-rays to an answer, on drawn images. You could type every command yourself.", "strong")
    done = demo(folder=folder, quick=quick, guide=_Guide())
    console.say("\nWhat the search found", "strong")
    console.show(_found(done))
    console.say_command(f"xraytune status {quote(str(done.study))}", "all its trials: ")
    console.say("\nWith your own images", "strong")
    console.say("  a folder with train/NORMAL, train/PNEUMONIA and, to be kept for the end, test/ likewise; then:")
    console.say_command("xraytune data inspect YOUR_FOLDER", "  $ ")
    console.say_command("xraytune search --space search_spaces/gan_ratio_cpu.yaml --data YOUR_FOLDER", "  $ ")


class _Guide:
    """Prints each step's command as a person would type it, and what it gave."""

    def __init__(self) -> None:
        self._steps = 0

    def step(self, why: str, command: str) -> SearchScreen:
        """Why, and the command."""
        self._steps += 1
        console.say(f"\n{self._steps}. {why}", "strong")
        console.say_command(f"xraytune {command}")
        return SearchScreen()

    def outcome(self, record: Outcome) -> None:
        """As the command itself says it."""
        from xraytune.data.phantom import PhantomSet
        from xraytune.export.best import Exported
        from xraytune.export.train import Trained
        from xraytune.search.run import SearchSummary

        match record:
            case PhantomSet():
                data.show(record)
            case SearchSummary():
                search.show(record, next_step=False)
            case Exported():
                export.show(record, next_step=False)
            case Trained():
                train.show(record, next_step=False)
            case _:
                evaluate.show(record)

    def is_there(self, path: Path) -> None:
        """Nothing is made twice."""
        console.say(f"{path} is there already and stays as it is")


def _found(done: Demo) -> Frame:
    columns = (
        Column(name="source"),
        Column(name="trials", align="right"),
        Column(name="best val-A AUROC", align="right"),
        Column(name="after epochs", align="right"),
    )
    rows = tuple(
        (_SOURCES[best.source], f"{best.trial_count}", f"{best.val_auroc:.3f}", f"{best.epochs}")
        for best in sorted(done.sources, key=lambda best: list(_SOURCES).index(best.source))
    )
    auroc, (low, high) = done.evaluation.metrics.auroc, done.evaluation.intervals["auroc"]
    lines = (
        "This is a demo, not evidence: the images are drawn, the GAN has hardly begun to learn, and with so few patients "
        f"differences like these are chance. On patients it had never seen the model reached an AUROC of {auroc:.3f} "
        f"(95 % interval {low:.3f} to {high:.3f}).",
    )
    where = console.facts(
        ("X-rays", f"{done.xrays}"),
        ("study", f"{done.study}"),
        ("configuration", f"{done.config}"),
        ("model", f"{done.model}"),
    )
    return Frame(lines=lines, tables=(Table(columns=columns, rows=rows), where))
