"""`xraytune confirm`: run the confirmation of a study and print its verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.records import Progress, ignore_progress
from xraytune.cli import console, options
from xraytune.cli.console import Cell, Column, Row, Table, Tone
from xraytune.cli.search import log_dashboard, shown_path

if TYPE_CHECKING:
    from xraytune.confirm.analysis import FinalistResult, Gain
    from xraytune.confirm.forecast import Forecast
    from xraytune.confirm.record import Confirmation
    from xraytune.confirm.run import Rehearsal
    from xraytune.confirm.secondary import ArmDifference, Difference, ExternalResult, Outcome, OutcomeDifference
    from xraytune.search.callbacks import Callbacks
    from xraytune.stats.verdict import Interval

_TONES: dict[str, Tone] = {"helps": "good", "better": "good", "hurts": "bad", "worse": "bad"}
_OUTCOMES: dict[Outcome, str] = {
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "brier": "Brier score",
}
_DIFFERENCE_COLUMNS = (*console.numbers("difference"), "95 % interval")


def confirm(
    study: options.StudyArgument,
    test: Annotated[
        Path | None,
        Option(
            metavar="SOURCE",
            help="Test images, if the study's data has none: class folders (segmentation: images/ and masks/) or a data "
            "file (YAML).",
        ),
    ] = None,
    external: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Images (or a data file) of a second hospital, reported separately; also possible after a verdict.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        Option(
            "--quick",
            help="Rehearse on val-B with few replicates, and estimate what the confirmation would cost and could show; the "
            "test folder stays sealed.",
        ),
    ] = False,
    data: options.MovedData = None,
    weights_dir: options.WeightsDir = None,
    finalists: Annotated[
        int | None, Option(min=1, metavar="N", help="Number of best mixes to test; overrides the study's setting.")
    ] = None,
    gan_seeds: Annotated[
        int | None,
        Option(
            min=2,
            metavar="N",
            help="Use more GAN seeds than the study's setting; adding seeds after a verdict makes the next one exploratory.",
        ),
    ] = None,
    forecast: Annotated[
        bool, Option("--forecast", help="Train, forecast the verdict, and stop before accessing the test folder.")
    ] = False,
    yes: options.Yes = False,
    cache: options.Cache = None,
    address: options.Address = None,
    reason: options.Reason = "",
    as_json: options.AsJson = False,
) -> None:
    """Test the best mixes against matched and tuned controls, with new seeds, on the sealed test folder."""
    from xraytune.confirm.run import confirm, rehearse

    paths = {"data": data, "weights_dir": weights_dir, "cache": cache}
    if quick:
        only_whole = {"test": test, "external": external, "finalists": finalists, "gan-seeds": gan_seeds}
        if given := [f"--{name}" for name, value in (only_whole | {"forecast": forecast}).items() if value]:
            what = f"--quick is a rehearsal on val-B and takes no {' or '.join(given)}"
            raise ConfigError(Problem(what, fix=f"omit --quick, or {' and '.join(given)}"))
        with ConfirmScreen() as screen:
            rehearsal = rehearse(study, **paths, address=address, callbacks=screen.callbacks)
        console.show_json(rehearsal.to_json()) if as_json else show_rehearsal(rehearsal)
        return
    with ConfirmScreen(only_forecast=forecast, ask=not (yes or as_json), as_json=as_json) as screen:
        found = confirm(
            study,
            test=test,
            external=external,
            finalists=finalists,
            gan_seeds=gan_seeds,
            **paths,
            address=address,
            reason=reason,
            callbacks=screen.callbacks,
            on_forecast=screen.on_forecast,
        )
    console.show_json(found.to_json()) if as_json else show_verdict(found)


@dataclass(slots=True)
class ConfirmScreen:
    """Show the progress of a confirmation; `ask` before accessing the test folder, if there is a terminal."""

    only_forecast: bool = False
    ask: bool = False
    as_json: bool = False
    _drawing: ExitStack = field(default_factory=ExitStack)
    _bars: Progress = ignore_progress

    def __enter__(self) -> ConfirmScreen:
        self._bars = self._drawing.enter_context(console.progress())
        return self

    def __exit__(self, *error: object) -> None:
        self._drawing.close()

    @property
    def callbacks(self) -> Callbacks:
        """The screen as the callbacks of `confirm`."""
        from xraytune.search.callbacks import Callbacks

        return Callbacks(
            note=console.event,
            on_start=lambda _, dashboard: log_dashboard(dashboard),
            on_progress=lambda what, done, total: self._bars(what, done, total),
        )

    def on_forecast(self, forecast: Forecast, is_open: bool) -> None:
        """Show the forecast; exit if nothing else was requested, or if the test folder is to stay sealed."""
        if is_open and not self.only_forecast:
            return
        self._drawing.close()
        if self.as_json and self.only_forecast:
            console.show_json(forecast.to_json())
            raise Exit
        if not self.as_json:
            show_forecast(forecast)
        if is_open:
            console.write("the test folder has already been accessed: adding seeds now makes the verdict exploratory")
        elif self.only_forecast or (self.ask and not console.agreed("Access the test folder now?")):
            how = "use --gan-seeds N to add seeds, or omit --forecast to access it"
            console.write(f"the test folder stays sealed; {how}")
        else:
            self._bars = self._drawing.enter_context(console.progress())
            return
        raise Exit


def show_rehearsal(rehearsal: Rehearsal, *, next_step: bool = True) -> None:
    """Print the differences on val-B, what the whole confirmation would cost and could show, and its command."""
    first, cost, metric = rehearsal.differences[0], rehearsal.cost, rehearsal.forecast.metric
    time_left = f"{cost.hours:.1f} h" if cost.hours >= 1 else f"{max(1, round(cost.hours * 60))} min"
    console.show(
        Cell("rehearsal on val-B: no verdict, and no test image is scored", "strong"),
        *(Cell(f"note: {text}", "dim") for text in rehearsal.notes),
        _differences(rehearsal.differences, metric, f"{first.finalist}, val-B {metric} {first.value:.3f} (rehearsal)"),
        f"With {rehearsal.gan_seeds} GAN seeds, these intervals are wide, and val-B selected the arms. A rehearsal finds "
        "problems and estimates costs; it does not answer the question.",
        console.facts(
            ("replicates", f"{cost.replicates}, of which {cost.trained} have already been trained"),
            ("top-up trials", f"{cost.top_ups}, pruned like the search's"),
            ("time left", f"about {time_left} on this machine"),
            title="the whole confirmation",
        ),
    )
    show_forecast(rehearsal.forecast)
    if next_step:
        test = "" if rehearsal.has_test else " --test DIR"
        console.write_command(f"xraytune confirm {quote(str(shown_path(rehearsal.study)))}{test}", "next: ")


def _differences(differences: Sequence[ArmDifference], metric: str, title: str) -> Table:
    rows = [(one.control, f"{one.control_value:.3f}", *_signed(one.difference, one)) for one in differences]
    return Table((Column("control", flexible=True), Column(metric, "right"), *_DIFFERENCE_COLUMNS), rows, title)


def _signed(value: float, interval: Difference | Interval | Gain) -> tuple[str, str]:
    return f"{value:+.4f}", f"{interval.low:+.4f} to {interval.high:+.4f}"


def show_forecast(forecast: Forecast) -> None:
    """Print the most likely verdict for each design and true effect."""
    effects = sorted({one.true_difference for one in forecast.chances})
    rows: list[Row] = []
    for score, seeds in dict.fromkeys((one.score, one.gan_seeds) for one in forecast.chances):
        likeliest = [one.likeliest for one in forecast.of_design(score=score, gan_seeds=seeds)]
        cells = (Cell(f"{word} {chance:.0%}", _TONES.get(word, "plain")) for word, chance in likeliest)
        rows.append((f"{score:.3f}", f"{seeds}", *cells))
    names = [f"true effect {effect:+g}" if effect else "no effect" for effect in effects]
    columns = (*console.numbers(f"test {forecast.metric}", "GAN seeds"), *names)
    title = "forecast: the most likely verdict on test images, based on scores on val-B"
    console.show(Table(columns, rows, title))
    console.write(forecast.summary)


def show_verdict(found: Confirmation) -> None:
    """Print the verdict, the comparisons behind it, and where it is written."""
    from xraytune.stats.verdict import verdict_text

    first, metric = found.finalists[0].arm.name, found.metric
    head = "exploratory: " if found.exploratory else ""
    parts: list[Cell | str | Table] = [
        Cell(f"{first}: {head}{verdict_text(found.verdict, metric)}", _TONES.get(found.verdict, "strong")),
        *(one.sentence for one in found.generators if one.arm == first),
        *(Cell(f"note: {text}", "dim") for text in (*found.exploratory, *found.notes)),
        *(_comparisons(finalist, metric) for finalist in found.finalists),
    ]
    if secondary := [one for one in found.secondary if one.finalist == first]:
        parts.append(_outcomes(secondary, f"{first}: secondary outcomes, not part of the verdict"))
    if positive := found.test.positive:
        parts.append(Cell(f"sensitivity for {positive}, at the specificity of the control at its threshold", "dim"))
    for result in found.external:
        parts += _external(result, first, metric)
    console.show(*parts)
    folder = shown_path(found.study) / "confirm"
    console.write(f"all results, also at other ratios: {folder}/verdict.json; text for a paper: {folder}/methods.md")


def _comparisons(finalist: FinalistResult, metric: str) -> Table:
    rows: list[Row] = []
    for one in finalist.comparisons:
        interval, words = one.comparison.interval, one.verdict.words
        result = Cell(", ".join(words), _TONES.get(words[0], "plain"))
        score = f"{one.comparison.scores[1]:.3f}"
        rows.append((one.control, score, *_signed(interval.difference, interval), result))
    columns = (Column("control", flexible=True), Column(metric, "right"), *_DIFFERENCE_COLUMNS, "result")
    word = "not tested" if finalist.verdict is None else finalist.verdict.word.replace("_", " ")
    return Table(columns, rows, f"{finalist.arm.name}, {metric} {finalist.score:.3f}: {word}")


def _outcomes(secondary: Sequence[OutcomeDifference], title: str) -> Table:
    rows: list[Row] = []
    for outcome, name in _OUTCOMES.items():
        own = [one for one in secondary if one.outcome == outcome]
        rows += [(Cell(name, "strong"), "", "", "", "")] if own else []
        rows += map(_values, own)
    columns = (Column("outcome, control", flexible=True), *console.numbers("finalist", "control"), *_DIFFERENCE_COLUMNS)
    return Table(columns, rows, title)


def _values(one: ArmDifference) -> tuple[str, ...]:
    return f"  {one.control}", f"{one.value:.3f}", f"{one.control_value:.3f}", *_signed(one.difference, one)


def _external(result: ExternalResult, finalist: str, metric: str) -> Iterator[Table | Cell]:
    own = [one for one in result.differences if one.finalist == finalist]
    where = f"{finalist} on {result.folder}/ ({result.patients} patients), not part of the verdict"
    yield _differences(own, metric, f"{where}: {metric} {own[0].value:.3f}")
    if result.earlier_accesses:
        times = "once" if result.earlier_accesses == 1 else f"{result.earlier_accesses} times"
        yield Cell(f"note: this folder had been scored {times} before", "dim")
    if outcomes := [one for one in result.secondary if one.finalist == finalist]:
        yield _outcomes(outcomes, f"{finalist} on {result.folder}/: secondary outcomes")
