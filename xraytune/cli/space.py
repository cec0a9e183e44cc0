"""`xraytune space check` validates a search space file and prints it with all defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, BadParameter, Exit, Option

from xraytune.base.errors import ConfigError, MachineError, Problem, SourceLine
from xraytune.base.records import Json
from xraytune.cli import console, options
from xraytune.present.tables import Cell, Column, Table, facts

if TYPE_CHECKING:
    from xraytune.space.settings import Settings
    from xraytune.space.space import ParameterSpec, Space


def check(
    file: Annotated[Path | None, Argument(metavar="FILE", help="Search space file (YAML).")] = None,
    data: options.Data = None,
    weights_dir: options.WeightsDir = None,
    overrides: options.Overrides = None,
    as_json: options.AsJson = False,
    schema: Annotated[bool, Option("--schema", help="Print the JSON Schema of search space files.")] = False,
) -> None:
    """Validate a search space file and print it with all defaults. Reports all problems at once."""
    from xraytune.space.load import load_space
    from xraytune.space.schema import space_schema
    from xraytune.space.space import require_extensions

    if schema:
        console.show_json(space_schema())
        return
    if file is None:
        raise BadParameter("give a space file, or --schema", param_hint="FILE")
    answer: dict[str, Json] = {"file": str(file), "ok": False, "searched": [], "space": None, "notes": []}
    try:
        loaded = load_space(file, overrides or (), data=data, weights_dir=weights_dir)
        require_extensions(loaded)
    except (ConfigError, MachineError) as error:
        if not as_json:
            raise
        console.show_json(answer | {"problems": [_problem(problem) for problem in error.problems]})
        raise Exit(error.exit_code) from None
    if as_json:
        content = {"searched": list(loaded.searched), "space": loaded.identity(), "notes": list(loaded.notes)}
        console.show_json(answer | {"ok": True} | content | {"problems": []})
    else:
        _show(file, loaded)


def _problem(problem: Problem) -> dict[str, Json]:
    line = problem.where.line if isinstance(problem.where, SourceLine) else None
    return {"what": problem.what, "where": str(problem.where), "line": line, "fix": problem.fix}


def _show(file: Path, space: Space) -> None:
    from xraytune.space.settings import has_effect_in

    searched = [spec for spec in space.specs if spec.domain.is_open]
    fixed = [spec for spec in space.specs if not spec.domain.is_open and has_effect_in(space.settings, spec.name)]
    are = "parameter is" if len(searched) == 1 else "parameters are"
    what = f"{len(searched)} {are} searched, {len(fixed)} are fixed"
    console.show(
        Cell(f"{file}: valid. {what if searched else 'It is a single experiment, for `xraytune train`'}.", "strong"),
        *(Cell(f"note: {note}", "dim") for note in space.notes),
        *([_parameters("searched", searched)] if searched else []),
        _parameters("fixed", fixed),
        _settings(space.settings),
    )


def _parameters(title: str, specs: Sequence[ParameterSpec]) -> Table:
    rows = []
    for spec in specs:
        values = f"{spec.domain}, logarithmic" if spec.domain.is_log else str(spec.domain)
        rows.append((spec.name, values, Cell(" and ".join(map(str, spec.when)), "dim")))
    columns = ("parameter", Column("values", flexible=True), Column("condition", flexible=True))
    return Table(columns, rows, f"{title} ({len(specs)})")


def _settings(settings: Settings) -> Table:
    budget, scheduler, sampler, data = settings.budget, settings.scheduler, settings.sampler, settings.data
    hours = {"hours": budget.hours, "GPU hours": budget.gpu_hours}
    limits = [f"{budget.trials} trials of up to {budget.max_epochs} epochs"]
    limits += [f"{value:g} {unit}" for unit, value in hours.items() if value]
    is_asha = scheduler.name == "asha"
    rungs = f"ASHA, grace {scheduler.grace}, reduction {scheduler.reduction}" if is_asha else "none"
    if settings.has_idle_asha:
        rungs += f"; stops no trial, because there are only {budget.max_epochs} epochs"
    patients = f"{data.train_patients} patients" if data.train_patients else "all other patients"
    missing = "" if data.path.exists() else "; does not exist: give --data DIR"
    objective = settings.objective
    goal = f"{objective.goal.removesuffix('ize')}ises {objective.metric}"
    goal += f" at specificity {objective.specificity:g}" if objective.specificity is not None else ""
    return facts(
        ("study", settings.name),
        ("task", f"{settings.task}, {goal}"),
        ("images", f"{data.path}, {data.image_size} px{missing}"),
        ("split", f"val-A {data.split.val_a:g}, val-B {data.split.val_b:g}, training set: {patients}"),
        ("budget", ", ".join(limits)),
        ("scheduler", rungs),
        ("sampler", f"{sampler.name}, {sampler.startup_trials} random trials first, seed {sampler.seed}"),
        title="settings",
    )
