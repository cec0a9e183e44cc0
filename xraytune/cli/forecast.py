"""`xraytune forecast`: what a study will take, and whether it can answer its question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console, options
from xraytune.cli.console import Cell, Column, Row, Table
from xraytune.records import time_range

if TYPE_CHECKING:
    from xraytune.confirm.study_forecast import StudyForecast

_WORDS = ("helps", "hurts", "no_better", "undecided")


def forecast(
    space: options.SpaceFile,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    cache: options.GeneratorCache = None,
    score: Annotated[float, typer.Option(metavar="AUROC", help="AUROC to assume on the test images.")] = 0.955,
    replicate_sd: Annotated[
        float, typer.Option(metavar="SD", help="Standard deviation to assume between replicates of an arm.")
    ] = 0.006,
    as_json: options.AsJson = False,
) -> None:
    """Forecast the hours and disk space of a search on this machine, and whether the study can answer its question."""
    from xraytune.confirm.study_forecast import forecast

    with console.progress() as on_progress:
        found = forecast(
            space,
            data=data,
            weights_dir=weights_dir,
            overrides=overrides or (),
            cache=cache,
            score=score,
            replicate_sd=replicate_sd,
            on_progress=on_progress,
        )
    console.show_result(found, _show, as_json=as_json)


def _show(found: StudyForecast) -> None:
    console.show(
        Cell(f"{found.name}: {found.search.summary}", "strong"),
        *(Cell(f"note: {note}", "dim") for note in found.notes),
        console.facts(*_costs(found)),
        *(_answer(found) if found.chances else ()),
    )


def _costs(found: StudyForecast) -> Iterator[tuple[str, str]]:
    search = found.search
    low, expected, high = search.seconds
    yield "wall time", f"{time_range(low, high)}, most likely {time_range(expected, expected)}"
    if search.gpu_seconds[2]:
        yield "GPU time", time_range(search.gpu_seconds[0], search.gpu_seconds[2])
    yield "ASHA", f"{search.epochs:.0f} of {search.max_epochs} epochs per trial; {_saves(search.pruning_saves)}"
    trained = f"{search.generators:.0f} generators trained; " if search.generators else ""
    yield "sharing", f"{trained}{_saves(search.sharing_saves)}"
    yield "disk", f"{search.disk_bytes / 2**30:.1f} GiB in the cache"
    if found.replicates:
        yield "confirm", f"{found.replicates} replicates, about {time_range(*2 * (found.confirm_seconds,))}"


def _saves(seconds: float) -> str:
    return f"saves {time_range(seconds, seconds)} of work"


def _answer(found: StudyForecast) -> Iterator[Cell | Table]:
    rows: list[Row] = [
        (
            f"{one.true_difference:+g}" if one.true_difference else "none",
            *(Cell(f"{getattr(one, word):.0%}", "strong" if word == one.likeliest[0] else "plain") for word in _WORDS),
        )
        for one in found.chances
    ]
    title = f"verdict of confirm with {found.patients} test patients and {found.chances[0].gan_seeds} GAN seeds"
    yield Table((Column("true effect", "right"), *console.numbers(*_WORDS)), rows, title)
    yield Cell(f"assumes {found.assumed}", "dim")
    if found.remedies is not None:
        effect = found.chances[-1].true_difference
        yield Cell(f"warning: this study probably cannot detect even an improvement of {effect:g} AUROC", "bad")
        yield Cell(
            f"what could: {' or '.join(found.remedies) or 'neither 20 GAN seeds nor ten times the patients'}", "strong"
        )
