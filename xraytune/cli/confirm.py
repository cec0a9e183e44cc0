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
    from xraytune.confirm.forecast import Forecast, VerdictChances
    from xraytune.confirm.record import Confirmation

_TONES: dict[str, Tone] = {"helps": "good", "better": "good", "hurts": "bad", "worse": "bad"}
_WORDS = {
    "helps": "synthetic images help",
    "hurts": "synthetic images hurt",
    "no_better": "synthetic images do not improve AUROC",
    "undecided": "inconclusive: neither an improvement nor its absence was shown",
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
        typer.Option(
            min=2,
            metavar="N",
            help="Use more GAN seeds than the study sets; adding them after a verdict makes the next one exploratory.",
        ),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option("--forecast", help="Train, forecast the verdict, and stop before the test folder is opened."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Open the test folder without asking.")] = False,
    cache: Cache = None,
    address: Address = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Answer the question: the best mixes against matched and tuned controls, on fresh seeds and the sealed test folder."""
    from xraytune.confirm.run import confirm

    with ConfirmScreen(only_forecast=forecast, ask=not (yes or as_json), as_json=as_json) as screen:
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
    """A `ConfirmObserver` that shows the progress of a confirm.

    Args:
        only_forecast: Whether to stop after the forecast.
        ask: Whether to ask before the test folder is opened; without a terminal it is opened without asking.
        as_json: Whether stdout is reserved for JSON.
    """

    def __init__(self, *, only_forecast: bool, ask: bool, as_json: bool) -> None:
        self._only_forecast, self._ask, self._as_json = only_forecast, ask, as_json

    def __enter__(self) -> ConfirmScreen:
        self._drawing = ExitStack()
        self._bars = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    def on_progress(self, what: str, done: int, total: int) -> None:
        """A bar for each kind of work."""
        self._bars(what, done, total)

    def forecast(self, forecast: Forecast, *, is_open: bool) -> None:
        """Show the forecast; exit if it is all that was asked for, or if the test folder is to stay sealed."""
        if is_open and not self._only_forecast:
            return
        self._drawing.close()
        if self._as_json and self._only_forecast:
            console.show_json(forecast.to_json())
            raise typer.Exit
        if not self._as_json:
            show_forecast(forecast)
        if is_open:
            console.say("the test folder was opened before; seeds added now make the verdict exploratory")
            raise typer.Exit
        if self._only_forecast or (self._ask and not console.agreed("Open the test folder now?")):
            console.say(
                "the test folder stays sealed; run confirm with --gan-seeds N to add seeds, without --forecast to open it"
            )
            raise typer.Exit
        self._bars = self._drawing.enter_context(console.progress())

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


def show_forecast(forecast: Forecast) -> None:
    """Show the most likely verdict of each design, by the true effect."""
    effects = sorted({one.true_difference for one in forecast.chances})
    columns = (
        Column(name="test AUROC", align="right"),
        Column(name="GAN seeds", align="right"),
        *(Column(name=f"if they add {effect:g}" if effect else "if they do nothing") for effect in effects),
    )
    designs = list(dict.fromkeys((one.design.auroc, one.design.gan_seeds) for one in forecast.chances))
    rows: tuple[tuple[Cell | str, ...], ...] = tuple(
        (
            f"{auroc:.3f}",
            str(gan_seeds),
            *(_likeliest(one) for one in forecast.of_design(auroc=auroc, gan_seeds=gan_seeds)),
        )
        for auroc, gan_seeds in designs
    )
    title = "forecast: the most likely verdict on the test folder, from the scores on val-B"
    console.show(Frame(lines=(), tables=(Table(title=title, columns=columns, rows=rows),)))
    console.say(forecast.as_text)


def _likeliest(chances: VerdictChances) -> Cell:
    word, chance = chances.likeliest
    return Cell(f"{word.replace('_', ' ')} {chance:.0%}", _TONES.get(word, "plain"))


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
    """Yield the rows of a ratio: the finalist's source over ratio 0, duplicates over ratio 0, the source over duplicates."""
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
