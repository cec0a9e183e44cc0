"""`xraytune space check FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraytune.cli import console
from xraytune.cli.console import Cell, Column, Frame, Table
from xraytune.cli.options import AsJson, Data, Overrides, WeightsDir
from xraytune.errors import ConfigError, Problem, SourceLine
from xraytune.records import Json

if TYPE_CHECKING:
    from xraytune.config.domains import Domain, Value
    from xraytune.config.settings import Settings
    from xraytune.config.space import ParameterSpec, Space


def check(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="The space file (YAML).")] = None,
    space: Annotated[Path | None, typer.Option(metavar="FILE", help="FILE, said as `search` says it.")] = None,
    data: Data = None,
    weights_dir: WeightsDir = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of space files, for editors, and nothing else.")
    ] = False,
) -> None:
    """Check a space file, and print what it means with every default; all problems are told at once."""
    from xraytune.config.load import load_space
    from xraytune.config.schema import space_schema

    if schema:
        console.show_json(space_schema())
        return
    if file and space:
        raise typer.BadParameter("name the space file once, as FILE or with --space", param_hint="FILE")
    file = file or space
    if file is None:
        raise typer.BadParameter("name the space file, or give --schema", param_hint="FILE")
    try:
        loaded = load_space(file, overrides or (), data=data, weights_dir=weights_dir)
    except ConfigError as error:
        if as_json:
            console.show_json({**_answer(file), "problems": [_problem(problem) for problem in error.problems]})
            raise typer.Exit(error.exit_code) from None
        raise
    if as_json:
        content: Json = loaded.identity()
        console.show_json({**_answer(file), "ok": True, "searched": list(loaded.searched), "space": content})
    else:
        console.show(_frame(file, loaded))


def _answer(file: Path) -> dict[str, Json]:
    return {"file": str(file), "ok": False, "searched": [], "space": None, "problems": []}


def _problem(problem: Problem) -> dict[str, Json]:
    line = problem.where.line if isinstance(problem.where, SourceLine) else None
    return {"what": problem.what, "where": str(problem.where), "line": line, "fix": problem.fix}


def _frame(file: Path, space: Space) -> Frame:
    searched = [spec for spec in space.specs if spec.domain.is_open]
    fixed = [spec for spec in space.specs if not spec.domain.is_open]
    if searched:
        what = f"{len(searched)} parameters are searched, {len(fixed)} are fixed"
    else:
        what = "nothing is left to choose: an experiment that `xraytune train` runs"
    tables = (
        *([_parameters(f"searched ({len(searched)})", searched)] if searched else []),
        _parameters(f"fixed ({len(fixed)})", fixed),
        _settings(space.settings),
    )
    return Frame(lines=(Cell(f"{file}: right. {what}.", "strong"),), tables=tables)


def _parameters(title: str, specs: list[ParameterSpec]) -> Table:
    columns = (
        Column(name="parameter"),
        Column(name="what it may be", flexible=True),
        Column(name="when", flexible=True),
    )
    rows = tuple((spec.name, _shown(spec.domain), Cell(" and ".join(map(str, spec.when)), "dim")) for spec in specs)
    return Table(title=title, columns=columns, rows=rows)


def _shown(domain: Domain) -> str:
    from xraytune.config.domains import Choices

    if isinstance(domain, Choices):
        return " or ".join(_as_written(value) for value in domain.values)
    return f"{domain}, logarithmic" if domain.is_log else f"{domain}"


def _as_written(value: Value) -> str:
    """As the file says it."""
    if value is None:
        return "not set"
    return f"{value}".lower() if isinstance(value, bool) else f"{value}"


def _settings(settings: Settings) -> Table:
    budget, scheduler, sampler, data = settings.budget, settings.scheduler, settings.sampler, settings.data
    limits = [f"{budget.trials} trials of up to {budget.max_epochs} epochs"]
    limits += [f"{budget.hours:g} hours"] if budget.hours else []
    limits += [f"{budget.gpu_hours:g} GPU hours"] if budget.gpu_hours else []
    is_asha = scheduler.name == "asha"
    rungs = f"ASHA, grace {scheduler.grace}, reduction {scheduler.reduction}" if is_asha else "none"
    rungs += f"; it stops no trial: none has more than {budget.max_epochs} epochs" if settings.has_idle_asha else ""
    patients = f"{data.train_patients} patients" if data.train_patients else "all patients"
    rows = console.facts(
        ("study", settings.name),
        (
            "images",
            f"{data.path}, {data.image_size} px" + ("" if data.path.exists() else "; not there: give --data DIR"),
        ),
        ("train side", f"{patients}, beside val-A {data.split.val_a:g} and val-B {data.split.val_b:g}"),
        ("budget", ", ".join(limits)),
        ("scheduler", rungs),
        ("sampler", f"{sampler.name}, {sampler.startup_trials} random trials first, seed {sampler.seed}"),
    )
    return Table(title="settings", columns=rows.columns, rows=rows.rows)
