"""Read the search space of a file.

`parameters:` has the values or the range of each parameter, and the conditions on which it is
active. `points_to_evaluate:` has the points that a search tries first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import ConfigDict, Field, TypeAdapter

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.contract import Unless
from xraytune.space.document import Block, Document, KeyPath
from xraytune.space.domains import Conditions, ParameterSpec, Point, Value, with_parents
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import PARAMETERS, flatten_blocks
from xraytune.space.messages import nearest
from xraytune.space.parameters import BLOCKS, unless_of
from xraytune.space.settings import Settings
from xraytune.space.space import corner_points
from xraytune.space.strict_model import Several, list_fields
from xraytune.space.task_settings import TASK_RULES, TaskName
from xraytune.space.validation import validate

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
_ROWS = TypeAdapter(list[dict[str, Any]])


def lift_blocks(document: Document) -> None:
    """Move the parameters and the condition of each block to dotted names: `gan.steps`, `gan.when`.

    A file may write them in the block itself, or in its `parameters`.
    """
    parameters = document.get("parameters")
    if isinstance(parameters, Block):
        EXTENSIONS.declare_installed([key.partition(".")[0] for key in parameters])
    for name in [*BLOCKS]:
        block = document.get("parameters", name)
        if not isinstance(block, Block):
            continue
        del parameters[name]
        parts = [block]
        if isinstance(block.get("parameters"), Block):
            parts.append(block.pop("parameters"))
        for part in parts:
            for key, content in part.items():
                dotted = f"{name}.{key}"
                if dotted in parameters:
                    raise ConfigError(
                        f"{dotted}: is declared twice, first at {parameters.places[dotted]}",
                        part.places[key],
                        "keep one",
                    )
                parameters.put(dotted, content, part.places[key])


def read_specs(document: Document, task: TaskName) -> tuple[ParameterSpec, ...]:
    """Return all parameters of a space, parents first; problems are collected in the document.

    Parameters that the file does not declare have their defaults. If a parameter has no effect at
    some values of others, it gets a condition on these others; a parameter that is never active is
    dropped. So different points are different trials.
    """
    declared = _read_declared(document, task)
    specs = _complete(document, declared, task)
    unused = declared.keys() - specs
    if unused:
        effective = {name: declared[name] for name in declared if name in specs}
        specs = _complete(document, effective, task)
    for name in sorted(unused):
        path = ("parameters", name)
        parents = _with_deciding(name, declared) - {name}
        is_excluded = any(document.is_option(("parameters", parent)) for parent in parents)
        if document.is_option(path) or not is_excluded:
            options = " or ".join(f"--set {parent}=..." for parent in sorted(parents))
            fix = f"omit it, or change what it depends on ({options})"
            what = f"{name}: no trial of this space uses it"
            document.problems.append(Problem(what, document.locate(path), fix))
    return tuple(specs.values())


def _deciding(name: str) -> set[str]:
    """Return the parameters that decide, whatever a file says, whether `name` has an effect."""
    unless = unless_of(name)
    return {unless.parameter} if unless else set()


def _with_deciding(name: str, specs: Mapping[str, ParameterSpec]) -> set[str]:
    """Return a parameter, and all that decide whether it is active."""
    parents = {child: _deciding(child) for child in PARAMETERS}
    for child, spec in specs.items():
        parents[child] |= {*spec.when}
    return with_parents([name], parents)


def _complete(
    document: Document, declared: Mapping[str, ParameterSpec], task: TaskName
) -> dict[str, ParameterSpec]:
    ordered: dict[str, ParameterSpec] = {}

    def place(name: str, children: tuple[str, ...] = ()) -> None:
        if name in children:
            circle = " -> ".join([*children[children.index(name) :], name])
            raise document.error(
                ("parameters", name),
                f"the conditions go in a circle: {circle}",
                "remove one `when`",
            )
        is_missing = name not in declared and PARAMETERS[name].is_required()
        if name in ordered or is_missing or name in TASK_RULES[task].unused:
            return
        spec = declared.get(name) or ParameterSpec(name=name, values=_default(name))
        for parent in sorted({*spec.when, *_deciding(name)}):
            place(parent, (*children, name))
        if unless := unless_of(name):
            unplaced = ParameterSpec(name=unless.parameter, values=_default(unless.parameter))
            spec = _restrict(spec, unless, ordered.get(unless.parameter, unplaced))
        if any(name in point for point in corner_points([*ordered.values(), spec], [name])):
            ordered[name] = spec

    for name in PARAMETERS:
        place(name)
    return ordered


def _restrict(spec: ParameterSpec, unless: Unless, parent: ParameterSpec) -> ParameterSpec:
    """Return a parameter that is active only at those values of another where it has an effect."""
    possible = parent.points
    assert possible is not None, "values of these parents can be listed"
    accepted = [value for value in possible if unless.permits(value)]
    # A parent that is not active has its default.
    may_be_default = not parent.when or unless.permits(PARAMETERS[parent.name].default)
    if len(accepted) == len(possible) and may_be_default:
        return spec
    accepted_by_both = tuple(
        value for value in spec.when.get(parent.name, possible) if value in accepted
    )
    return replace(spec, when={**spec.when, parent.name: accepted_by_both})


def _default(name: str) -> tuple[Value]:
    return (PARAMETERS[name].default,)


def _read_declared(document: Document, task: TaskName) -> dict[str, ParameterSpec]:
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise document.error(
            ("parameters",),
            f"parameters: {parameters!r} is not a mapping",
            "write parameters: {lr: {value: 1e-4}}",
        )
    specs = {}
    for name, content in parameters.items():
        block, _, key = name.rpartition(".")
        if key == "when" and block in BLOCKS:
            continue
        path = ("parameters", name)
        with document.collect():
            _require_known(document, path, name)
            if not isinstance(content, dict):
                raise document.error(
                    path,
                    f"{name}: {content!r} is not a mapping",
                    f"write {key}: {{value: ...}} or {{values: [...]}}",
                )
            when: dict[str, tuple[Value, ...]] = {}
            with document.collect():
                when |= _read_conditions(document, ("parameters", f"{block}.when"))
                when |= _read_conditions(document, (*path, "when"))
            values, distribution = _read_domain(document, name, content)
            if name in TASK_RULES[task].unused and values != _default(name):
                raise document.error(path, f"{name} has no effect with task: {task}", "remove it")
            specs[name] = ParameterSpec(
                name=name, values=values, distribution=distribution, when=when
            )
    return specs


def _read_conditions(document: Document, path: tuple[str, ...]) -> Conditions:
    when = document.get(*path)
    if when is None:
        return {}
    if not isinstance(when, dict) or "source" in path:
        raise document.error(
            path,
            f"{path[1]}: when: {when!r} is not a condition",
            "write when: {source: gan}, not at source",
        )
    conditions = {}
    for parent, accepted in when.items():
        values = accepted if isinstance(accepted, list) else [accepted]
        conditions[parent] = _read_values(document, (*path, parent), parent, values, "when: ")
    return conditions


def _require_known(document: Document, path: KeyPath, name: str, prefix: str = "") -> None:
    if name not in PARAMETERS:
        settings = list_fields(Settings)
        fix = nearest(name, [*PARAMETERS, *settings])
        if name in settings:
            fix = "it is a setting: write it at the top level of the file, not in parameters"
        raise document.error(path, f"{prefix}unknown key '{name}'", fix)


@cache
def _adapter(name: str, _block: type | None) -> TypeAdapter[tuple[Any, ...]]:
    field = PARAMETERS[name]
    several: Any = Several
    values: Any = Annotated[several[Annotated[field.annotation, field]], Field(min_length=1)]
    return TypeAdapter(values, config=ConfigDict(strict=True, allow_inf_nan=False))


def _read_values(
    document: Document, path: KeyPath, name: str, values: object, prefix: str = ""
) -> tuple[Value, ...]:
    """Return values of a parameter."""
    _require_known(document, path, name, prefix)
    adapter = _adapter(name, BLOCKS.get(name.partition(".")[0]))
    valid_values = validate(document, adapter, path, values, name=f"{prefix}{name}")
    return tuple(str(value) if isinstance(value, Path) else value for value in valid_values)


def _read_domain(
    document: Document, name: str, content: Mapping[str, Any]
) -> tuple[tuple[Value, ...], str | None]:
    """Return the values of a parameter, or the ends of a range and its distribution."""
    path = ("parameters", name)
    match sorted(content.keys() - {"when"}):
        case ["value"]:
            return _read_values(document, (*path, "value"), name, [content["value"]]), None
        case ["values"]:
            values = _read_values(document, (*path, "values"), name, content["values"])
            return tuple(dict.fromkeys(values)), None
        case ["max", "min"] | ["distribution", "max", "min"]:
            return _read_range(document, name, content)
        case keys:
            raise document.error(
                path,
                f"{name}: has {' and '.join(keys) or 'no value'}",
                "write one of: {value: A}, {values: [A, B]}, {min: A, max: B}",
            )


def _read_range(
    document: Document, name: str, content: Mapping[str, Any]
) -> tuple[tuple[Value, ...], str | None]:
    path = ("parameters", name)
    low, high = _read_values(document, path, name, [content["min"], content["max"]])
    field = PARAMETERS[name]
    if name == "input_size":
        raise document.error(
            path,
            "input_size: images of every size are decoded before the search, not those of a range",
            f"write values: [{low}, {high}]",
        )
    has_order = get_origin(field.annotation) is not Literal and not isinstance(low, bool)
    if not (has_order and isinstance(low, int | float) and isinstance(high, int | float)):
        raise document.error(
            path,
            f"{name}: its values have no order, so min and max do not apply",
            "write values: [a, b]",
        )
    is_integer = isinstance(low, int)
    distribution = str(content.get("distribution", "uniform"))
    allowed = DISTRIBUTIONS if is_integer else DISTRIBUTIONS[:2]
    if distribution not in allowed:
        raise document.error(
            (*path, "distribution"),
            f"{name}.distribution: unknown value {distribution!r}",
            nearest(distribution, allowed),
        )
    if low > high or (distribution == "log_uniform_values" and low <= 0):
        raise document.error(
            (*path, "min"),
            f"{name}: there is no such range from min {low:g} to max {high:g}",
            "write the smaller number first, above 0 if it has a logarithm",
        )
    if low == high:
        return (low,), None
    if is_integer and distribution == "uniform":
        distribution = "int_uniform"
    return (low, high), distribution


def read_points(document: Document, specs: Sequence[ParameterSpec]) -> tuple[Point, ...]:
    """Return the values of searched parameters in each row.

    The sampler chooses the values that a row does not give, but a row that gives a parameter must
    also give the parameters that decide whether it is active. Values that an option of the command
    line has excluded are left out. A row is left out if its source was excluded, if it equals
    another row, or if it has no value of a searched parameter. Problems are collected in the
    document.
    """
    place = ("points_to_evaluate",)
    rows = validate(document, _ROWS, place, document.get(*place) or [])
    spec_of = {spec.name: spec for spec in specs}
    constants = {spec.name: spec.values[0] for spec in specs if not spec.is_open}
    points = []
    for number, row in enumerate(rows):
        row_values: Point = {}
        usable_values: Point = {}
        with document.collect():
            for name, value in flatten_blocks(row).items():
                path = (*place, number, name)
                (row_values[name],) = _read_values(document, path, name, [value])
            for name, value in row_values.items():
                problem = _why_not_in_space(name, value, spec_of, {**constants, **row_values})
                deciding = _with_deciding(name, spec_of)
                if not problem:
                    usable_values[name] = value
                elif not any(document.is_option(("parameters", each)) for each in deciding):
                    raise document.error((*place, number, name), *problem)
        point: Point = {}
        for spec in specs:
            is_active = spec.is_active_at({**constants, **point})
            if spec.is_open and is_active and spec.name in usable_values:
                point[spec.name] = usable_values[spec.name]
        if ("source" in usable_values or "source" not in row) and point and point not in points:
            points.append(point)
    return tuple(points)


def _why_not_in_space(
    name: str, value: Value, specs: Mapping[str, ParameterSpec], row: Point
) -> tuple[str, str] | None:
    """Return what is wrong with a value in a row of points, and the fix, or None if it is valid."""
    prefix = f"points_to_evaluate: {name}: {value}"
    widen = "use a value of the space, or widen it"
    if name not in specs:
        return f"{prefix} is not in the space: it is never active", widen
    spec = specs[name]
    if not spec.contains(value):
        return f"{prefix} is not in the space: it is {spec}", widen
    for parent, accepted in spec.when.items():
        where = f"{parent}: {' or '.join(map(str, accepted))}"
        if parent not in row:
            return f"{prefix} is used only where {where}, which this point leaves open", "give both"
        if row[parent] not in accepted:
            return f"{prefix} is used only where {where}", f"remove {name}, or change {parent}"
    return None
