"""`xraytune confirm`: run the confirmation of a study and print its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Table, Tone
from xraytune.cli.options import Address, AsJson, Cache, MovedData, Reason, StudyArgument, WeightsDir
from xraytune.cli.search import log_dashboard, shown_path

if TYPE_CHECKING:
    from xraytune.confirm.analysis import ControlResult, DuplicatePoint, FinalistResult, Gain, RatioPoint
    from xraytune.confirm.forecast import Forecast, VerdictChances
    from xraytune.confirm.record import Confirmation
    from xraytune.confirm.rehearsal import Rehearsal
    from xraytune.confirm.secondary import Difference, Outcome, OutcomeDifference
    from xraytune.confirm.subgroups import ExternalResult, ScoreDifference
    from xraytune.search.messages import Callbacks

_TONES: dict[str, Tone] = {"helps": "good", "better": "good", "hurts": "bad", "worse": "bad"}
_OUTCOMES: dict[Outcome, str] = {
    "sensitivity": "sensitivity",
    "brier": "Brier score",
    "calibration_slope": "calibration slope",
}
_COLUMNS = (Column("control", "right"), Column("difference", "right"), "95 % interval")
_VERDICTS = {
    "helps": "synthetic images help",
    "hurts": "synthetic images hurt",
    "no_better": "synthetic images do not improve {metric}",
    "undecided": "inconclusive: neither an improvement nor its absence was shown",
}


def confirm(
    study: StudyArgument,
    test: Annotated[
        Path | None,
        typer.Option(
            metavar="SOURCE",
            help="Test images, if the study's data has none: class folders, for segmentation images/ and masks/, or a data "
            "file (YAML).",
        ),
    ] = None,
    external: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images (or a data file) of a second hospital, reported separately; also possible after a verdict.",
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Report the differences for each value of a column of the test images' patients.csv; repeatable.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Rehearse on val-B with few replicates, and estimate what the confirmation would cost and could show; the "
            "test folder stays sealed.",
        ),
    ] = False,
    data: MovedData = None,
    weights_dir: WeightsDir = None,
    finalists: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of best mixes to test; overrides the study's setting."),
    ] = None,
    gan_seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="Use more GAN seeds than the study's setting; adding seeds after a verdict makes the next one exploratory.",
        ),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option("--forecast", help="Train, forecast the verdict, and stop before accessing the test folder."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Access the test folder without asking.")] = False,
    cache: Cache = None,
    address: Address = None,
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Test the best mixes against matched and tuned controls, with new seeds, on the sealed test folder."""
    from xraytune.confirm.rehearsal import refuse_with_quick, rehearse
    from xraytune.confirm.run import confirm

    if quick:
        refuse_with_quick(
            test=test, external=external, by=by, finalists=finalists, gan_seeds=gan_seeds, forecast=forecast
        )
        with ConfirmScreen(only_forecast=False, ask=False, as_json=as_json) as screen:
            rehearsal = rehearse(
                study,
                data=data,
                weights_dir=weights_dir,
                cache=cache,
                address=address,
                callbacks=screen.callbacks,
            )
        console.show_json(rehearsal.to_json()) if as_json else show_rehearsal(rehearsal)
        return
    with ConfirmScreen(only_forecast=forecast, ask=not (yes or as_json), as_json=as_json) as screen:
        found = confirm(
            study,
            test=test,
            external=external,
            by=by or (),
            data=data,
            weights_dir=weights_dir,
            finalists=finalists,
            gan_seeds=gan_seeds,
            cache=cache,
            address=address,
            reason=reason,
            callbacks=screen.callbacks,
            on_forecast=screen.on_forecast,
        )
    if as_json:
        console.show_json(found.to_json())
    else:
        show_verdict(found)


class ConfirmScreen:
    """Show the progress of a confirmation.

    Args:
        only_forecast: Stop after the forecast.
        ask: Ask before accessing the test folder; never asks without a terminal.
        as_json: Print nothing but JSON to stdout.
    """

    def __init__(self, *, only_forecast: bool, ask: bool, as_json: bool) -> None:
        self._only_forecast, self._ask, self._as_json = only_forecast, ask, as_json

    @property
    def callbacks(self) -> Callbacks:
        """The screen as the callbacks of `confirm`."""
        from xraytune.search.messages import Callbacks

        return Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: log_dashboard(dashboard),
            on_progress=lambda what, done, total: self._bars(what, done, total),
        )

    def __enter__(self) -> ConfirmScreen:
        self._drawing = ExitStack()
        self._bars = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    def on_forecast(self, forecast: Forecast, is_open: bool) -> None:
        """Show the forecast; exit if nothing else was requested, or if the test folder is to stay sealed."""
        if is_open and not self._only_forecast:
            return
        self._drawing.close()
        if self._as_json and self._only_forecast:
            console.show_json(forecast.to_json())
            raise typer.Exit
        if not self._as_json:
            show_forecast(forecast)
        if is_open:
            console.write("the test folder was accessed before: adding seeds now makes the verdict exploratory")
            raise typer.Exit
        if self._only_forecast or (self._ask and not console.agreed("Access the test folder now?")):
            console.write(
                "the test folder stays sealed; use --gan-seeds N to add seeds, or omit --forecast to access it"
            )
            raise typer.Exit
        self._bars = self._drawing.enter_context(console.progress())


def show_rehearsal(rehearsal: Rehearsal, *, next_step: bool = True) -> None:
    """Print the differences on val-B, what the whole confirmation would cost and could show, and its command."""
    first, cost, metric = rehearsal.differences[0], rehearsal.cost, rehearsal.forecast.metric
    study = shown_path(rehearsal.study)
    console.show(
        Cell("rehearsal on val-B: no verdict, and no test image is scored", "strong"),
        *(Cell(f"note: {text}", "dim") for text in rehearsal.notes),
        _differences(rehearsal.differences, metric, f"{first.finalist}, val-B {metric} {first.value:.3f} (rehearsal)"),
        f"With {rehearsal.gan_seeds} GAN seeds these intervals are wide, and val-B selected the arms: a rehearsal finds "
        "problems and estimates costs, it answers nothing.",
        console.facts(
            ("replicates", f"{cost.replicates}, of which {cost.trained} are trained already"),
            ("top-up trials", f"{cost.top_ups}, pruned like the search's"),
            (
                "time left",
                f"about {cost.hours:.1f} h on this machine"
                if cost.hours >= 1
                else f"about {max(1, round(cost.hours * 60))} min on this machine",
            ),
            title="the whole confirmation",
        ),
    )
    show_forecast(rehearsal.forecast)
    if next_step:
        test = "" if rehearsal.has_test else " --test DIR"
        console.write_command(f"xraytune confirm {quote(str(study))}{test}", "next: ")


def _differences(differences: Sequence[ScoreDifference], metric: str, title: str) -> Table:
    return Table(
        (
            Column("control", flexible=True),
            Column(metric, "right"),
            Column("difference", "right"),
            "95 % interval",
        ),
        [(one.control, f"{one.control_value:.3f}", *_signed(one)) for one in differences],
        title,
    )


def _signed(one: Difference) -> tuple[str, str]:
    return f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}"


def show_forecast(forecast: Forecast) -> None:
    """Print the most likely verdict for each design and true effect."""
    effects = sorted({one.true_difference for one in forecast.chances})
    designs = dict.fromkeys((one.score, one.gan_seeds) for one in forecast.chances)
    console.show(
        Table(
            (
                Column(f"test {forecast.metric}", "right"),
                Column("GAN seeds", "right"),
                *(f"true effect {effect:+g}" if effect else "no effect" for effect in effects),
            ),
            [
                (
                    f"{score:.3f}",
                    f"{gan_seeds}",
                    *(_likeliest(one) for one in forecast.of_design(score=score, gan_seeds=gan_seeds)),
                )
                for score, gan_seeds in designs
            ],
            "forecast: the most likely verdict on test images, based on scores on val-B",
        )
    )
    console.write(forecast.summary)


def _likeliest(chances: VerdictChances) -> Cell:
    word, chance = chances.likeliest
    return Cell(f"{word} {chance:.0%}", _TONES.get(word, "plain"))


def show_verdict(found: Confirmation) -> None:
    """Print the verdict, the comparisons behind it, and where it is written."""
    from xraytune.confirm.analysis import RATIO_CAVEAT

    first = found.finalists[0]
    secondary = [one for one in found.secondary if one.finalist == first.arm.name]
    head = "exploratory: " if found.exploratory else ""
    console.show(
        Cell(
            f"{first.arm.name}: {head}{_VERDICTS[found.verdict].format(metric=found.metric)}",
            _TONES.get(found.verdict, "strong"),
        ),
        *(one.sentence for one in found.generators if one.arm == first.arm.name),
        *(Cell(f"note: {text}", "dim") for text in (*found.exploratory, *found.notes)),
        *(_comparisons(finalist, found.metric) for finalist in found.finalists),
        *((_ratios(found), Cell(f"note: {RATIO_CAVEAT}", "dim")) if found.ratio_response else ()),
        *(
            (_outcomes(secondary, f"{first.arm.name}: secondary outcomes, not part of the verdict"),)
            if secondary
            else ()
        ),
        *(
            (Cell(f"sensitivity for {found.test.positive}, at the specificity of the control at its threshold", "dim"),)
            if found.test.positive
            else ()
        ),
        *(_subgroups(found) if found.subgroups else ()),
        *(part for result in found.external for part in _external(result, first.arm.name, found.metric)),
    )
    folder = shown_path(found.study) / "confirm"
    console.write(f"all results: {folder}/verdict.json; text for a paper: {folder}/methods.md")


def _comparisons(finalist: FinalistResult, metric: str) -> Table:
    word = "not tested" if finalist.verdict is None else finalist.verdict.word.replace("_", " ")
    return Table(
        (
            Column("control", flexible=True),
            Column(metric, "right"),
            Column("difference", "right"),
            "95 % interval",
            "result",
        ),
        [_comparison(result) for result in finalist.comparisons],
        f"{finalist.arm.name}, {metric} {finalist.score:.3f}: {word}",
    )


def _comparison(result: ControlResult) -> tuple[Cell | str, ...]:
    interval, words = result.comparison.interval, result.verdict.words
    return (
        result.control.name,
        f"{result.comparison.scores[1]:.3f}",
        f"{interval.difference:+.4f}",
        f"{interval.low:+.4f} to {interval.high:+.4f}",
        Cell(", ".join(words), _TONES.get(words[0], "plain")),
    )


def _outcomes(secondary: Sequence[OutcomeDifference], title: str) -> Table:
    """Return a table of differences in the secondary outcomes, by outcome and control."""
    rows: list[tuple[Cell | str, ...]] = []
    for outcome, name in _OUTCOMES.items():
        own = [one for one in secondary if one.outcome == outcome]
        rows += [(Cell(name, "strong"), "", "", "", "")] if own else []
        rows += [(f"  {one.control}", f"{one.value:.3f}", f"{one.control_value:.3f}", *_signed(one)) for one in own]
    return Table((Column("outcome, control", flexible=True), Column("finalist", "right"), *_COLUMNS), rows, title)


def _subgroups(found: Confirmation) -> Iterator[Table | Cell]:
    """Yield the differences of the first finalist in each subgroup, and what they are compared with."""
    finalist = found.finalists[0].arm.name
    rows: list[tuple[Cell | str, ...]] = []
    for group in found.subgroups:
        name = f"{group.column}: {group.value}" + ("*" if group.versus_all else "")
        rows.append((Cell(name, "strong"), "", "", "", f"{group.patients} patients"))
        rows += [
            (f"  {one.control}", f"{one.value:.3f}", f"{one.control_value:.3f}", *_signed(one))
            for one in group.differences
            if one.finalist == finalist
        ] or [("  too few patients", "", "", "", "")]
    title = f"{finalist}: {found.metric} in subgroups of the test folder (exploratory)"
    yield Table((Column("subgroup, control", flexible=True), Column("finalist", "right"), *_COLUMNS), rows, title)
    for versus in dict.fromkeys(group.versus_all for group in found.subgroups if group.versus_all):
        yield Cell(f"*: these images versus all {versus} images", "dim")


def _external(result: ExternalResult, finalist: str, metric: str) -> Iterator[Table | Cell]:
    own = [one for one in result.differences if one.finalist == finalist]
    where = f"{finalist} on {result.folder}/ ({result.patients} patients), not part of the verdict"
    yield _differences(own, metric, f"{where}: {metric} {own[0].value:.3f}")
    if result.earlier_accesses:
        times = "once" if result.earlier_accesses == 1 else f"{result.earlier_accesses} times"
        yield Cell(f"note: this folder had been scored {times} before", "dim")
    if outcomes := [one for one in result.secondary if one.finalist == finalist]:
        yield _outcomes(outcomes, f"{finalist} on {result.folder}/: secondary outcomes")


def _ratios(found: Confirmation) -> Table:
    first = found.finalists[0].arm
    return Table(
        (
            Column("ratio", "right"),
            Column("arm", flexible=True),
            Column(f"val-B {found.metric}", "right"),
            Column("gain", "right"),
            "95 % interval",
        ),
        [row for point in found.ratio_response for row in _ratio_rows(point, first.parameters.source)],
        f"{first.name} at other ratios",
    )


def _ratio_rows(point: RatioPoint, source: str) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a ratio: the finalist's source over ratio 0, duplicates over ratio 0, the source over duplicates."""
    ratio, score = f"{point.ratio:g}", f"{point.score:.3f}"
    if not point.ratio:
        yield ratio, "no extra images", score, "", ""
        return
    yield ratio, f"{source} over ratio 0", score, *_gain(point)
    if point.duplicate:
        yield "", "duplicate over ratio 0", f"{point.duplicate.score:.3f}", *_gain(point.duplicate)
    if point.over_duplicate:
        yield "", f"{source} over duplicate", "", *_gain(point.over_duplicate)


def _gain(of: RatioPoint | DuplicatePoint | Gain) -> tuple[str, str]:
    return f"{of.gain:+.4f}", f"{of.low:+.4f} to {of.high:+.4f}"
