"""`xraytune confirm STUDY`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table, Tone
from xraytune.cli.options import Address, AsJson, Cache, MovedData, Reason, StudyArgument, WeightsDir
from xraytune.cli.search import shown_path, tell_dashboard

if TYPE_CHECKING:
    from xraytune.confirm.answer import ControlResult, DuplicatePoint, FinalistResult, Gain, RatioPoint
    from xraytune.confirm.record import Confirmation

_TONES: dict[str, Tone] = {"helps": "good", "better": "good", "hurts": "bad", "worse": "bad"}
_WORDS = {
    "helps": "the synthetic images help",
    "hurts": "the synthetic images hurt",
    "no_better": "the synthetic images bring nothing",
    "undecided": "undecided",
}


def confirm(
    study: StudyArgument,
    test: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Test images in class folders, where the study's images have no test/."),
    ] = None,
    data: MovedData = None,
    weights_dir: WeightsDir = None,
    finalists: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many of the best mixes, instead of the study's number.")
    ] = None,
    gan_seeds: Annotated[
        int | None,
        typer.Option(min=2, metavar="N", help="More GAN seeds than the study's; after a verdict, that is exploratory."),
    ] = None,
    cache: Cache = None,
    address: Address = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Answer the question: the best mixes against matched and tuned controls, on fresh seeds and the sealed test folder."""
    from xraytune.confirm.run import confirm

    with ConfirmScreen() as screen:
        found = confirm(
            study,
            test=test,
            data=data,
            weights_dir=weights_dir,
            finalists=finalists,
            gan_seeds=gan_seeds,
            cache=cache,
            address=address,
            reason=reason,
            observer=screen,
            on_progress=screen.on_progress,
        )
    if as_json:
        console.show_json(found.to_json())
    else:
        show(found)


class ConfirmScreen:
    """A `ConfirmObserver` that shows how far a confirm is."""

    def __enter__(self) -> ConfirmScreen:
        self._drawing = ExitStack()
        self.on_progress = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    def note(self, text: str) -> None:
        """A line above what is drawn."""
        console.event(text)

    def opened(self, dashboard: str) -> None:
        """Where to look at the runs."""
        tell_dashboard(dashboard)

    def progressed(self, what: str, ended: int, total: int) -> None:
        """A bar for each kind of run."""
        if total:
            self.on_progress(what, ended, total)


def show(found: Confirmation) -> None:
    """Say the verdict, what it rests on, and where it is written."""
    from xraytune.confirm.answer import RATIO_CAVEAT

    first = found.finalists[0]
    head = "exploratory: " if found.exploratory else ""
    console.show(
        Frame(
            lines=(
                Cell(f"{first.arm.name}: {head}{_WORDS[found.word]}", _TONES.get(found.word, "strong")),
                *(Cell(f"note: {text}", "dim") for text in (*found.exploratory, *found.notes)),
            ),
            tables=(*(_comparisons(finalist) for finalist in found.finalists), *_ratios(found)),
        )
    )
    if found.ratios:
        console.show(Frame(lines=(Cell(f"note: {RATIO_CAVEAT}", "dim"),)))
    folder = shown_path(found.study) / "confirm"
    console.say(f"{folder}/verdict.json has every figure, {folder}/methods.md the paragraphs for a paper")


def _comparisons(finalist: FinalistResult) -> Table:
    columns = (
        Column(name="against", flexible=True),
        Column(name="AUROC", align="right"),
        Column(name="difference", align="right"),
        Column(name="95 % interval"),
        Column(name="it is"),
    )
    word = "not tested" if finalist.verdict is None else finalist.verdict.word.replace("_", " ")
    title = f"{finalist.arm.name}, AUROC {finalist.auroc:.3f}: {word}"
    return Table(title=title, columns=columns, rows=tuple(_row(result) for result in finalist.results))


def _row(result: ControlResult) -> tuple[Cell | str, ...]:
    interval, words = result.comparison.interval, result.verdict.words
    return (
        result.control.name,
        f"{result.comparison.aurocs[1]:.3f}",
        f"{interval.difference:+.4f}",
        f"{interval.low:+.4f} to {interval.high:+.4f}",
        Cell(", ".join(words), _TONES.get(words[0], "plain")),
    )


def _ratios(found: Confirmation) -> tuple[Table, ...]:
    if not found.ratios:
        return ()
    columns = (
        Column(name="ratio", align="right"),
        Column(name="arm", flexible=True),
        Column(name="val-B AUROC", align="right"),
        Column(name="gain", align="right"),
        Column(name="95 % interval"),
    )
    first = found.finalists[0].arm
    rows = tuple(row for point in found.ratios for row in _ratio_rows(point, first.parameters.source))
    return (Table(title=f"{first.name} at other ratios", columns=columns, rows=rows),)


def _ratio_rows(point: RatioPoint, source: str) -> Iterator[tuple[Cell | str, ...]]:
    """A ratio: the finalist's source over no extra images, real images drawn again over none, the first over the second."""
    ratio, auroc = f"{point.ratio:g}", f"{point.auroc:.3f}"
    if not point.ratio:
        yield ratio, "no extra images", auroc, "", ""
        return
    yield ratio, f"{source} over ratio 0", auroc, *_gain(point)
    if point.duplicate:
        yield "", "duplicate over ratio 0", f"{point.duplicate.auroc:.3f}", *_gain(point.duplicate)
    if point.over_duplicate:
        yield "", f"{source} over duplicate", "", *_gain(point.over_duplicate)


def _gain(of: RatioPoint | DuplicatePoint | Gain) -> tuple[str, str]:
    return f"{of.gain:+.4f}", f"{of.low:+.4f} to {of.high:+.4f}"
