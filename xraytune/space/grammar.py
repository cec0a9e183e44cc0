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
from xraytune.space.document import Block, Document, KeyPath
from xraytune.space.domains import Conditions, ParameterSpec, Point, Value
from xraytune.space.fields import PARAMETERS, flatten_blocks
from xraytune.space.messages import nearest
from xraytune.space.settings import BLOCKS, Settings, TaskName, has_effect_in, has_effect_with
from xraytune.space.space import corner_points
from xraytune.space.strict_model import Several, list_fields
from xraytune.space.validation import validate

DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
_ROWS = TypeAdapter(list[dict[str, Any]])


def lift_blocks(document: Document) -> None:
    """Move the parameters and the condition of each block to dotted names: `gan.steps`, `gan.when`.

    They may be in the block itself, or in its `parameters`.
    """
    parameters = document.get("parameters")
    for name in BLOCKS:
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
                    what = f"{dotted}: is declared twice, first at {parameters.places[dotted]}"
                    raise ConfigError(what, part.places[key], "keep one")
                parameters.put(dotted, content, part.places[key])


def read_specs(document: Document, task: TaskName) -> tuple[ParameterSpec, ...]:
    """Return all parameters of a space, parents first; problems are collected in the document.

    Parameters that the file does not declare have their defaults. Those without an effect at some
    sources get a condition on `source`, and those that are never active are dropped. So different
    points are different trials.
    """
    declared = _read_declared(document, task)
    specs = _complete(document, declared, task)
    unused = declared.keys() - specs
    if unused:
        used = {name: declared[name] for name in declared if name in specs}
        specs = _complete(document, used, task)
    for name in sorted(unused):
        where = document.locate(("parameters", name))
        is_option = isinstance(where, str)
        has_default = name in specs
        if is_option or (has_default and not document.has_options):
            fix = "omit it, or change its `when` or the source (--set source=...)"
            what = f"{name}: no trial of this space uses it"
            document.problems.append(Problem(what, where, fix))
    return tuple(specs.values())


def _complete(
    document: Document, declared: Mapping[str, ParameterSpec], task: TaskName
) -> dict[str, ParameterSpec]:
    placed: dict[str, ParameterSpec] = {}

    def place(name: str, children: tuple[str, ...] = ()) -> None:
        if name in children:
            circle = " -> ".join([*children[children.index(name) :], name])
            what = f"the conditions go in a circle: {circle}"
            raise document.error(("parameters", name), what, "remove one `when`")
        is_missing = name not in declared and PARAMETERS[name].is_required()
        if name in placed or is_missing or not has_effect_in(task, name):
            return
        spec = declared.get(name) or ParameterSpec(name=name, values=_default(name))
        for parent in sorted(spec.when):
            place(parent, (*children, name))
        if name != "source":
            spec = _restrict(spec, placed["source"].values)
        if any(name in point for point in corner_points([*placed.values(), spec], [name])):
            placed[name] = spec

    for name in PARAMETERS:
        place(name)
    return placed


def _restrict(spec: ParameterSpec, sources: Sequence[Value]) -> ParameterSpec:
    """Return a parameter that is active only at those sources of a space where it has an effect."""
    block = spec.name.partition(".")[0]
    accepted = [source for source in sources if has_effect_with(source, block)]
    if len(accepted) == len(sources):
        return spec
    both = tuple(source for source in spec.when.get("source", sources) if source in accepted)
    return replace(spec, when={**spec.when, "source": both})


def _default(name: str) -> tuple[Value]:
    return (PARAMETERS[name].default,)


def _read_declared(document: Document, task: TaskName) -> dict[str, ParameterSpec]:
    given = document.get("parameters") or {}
    if not isinstance(given, dict):
        what = f"parameters: {given!r} is not a mapping"
        raise document.error(("parameters",), what, "write parameters: {lr: {value: 1e-4}}")
    declared: dict[str, ParameterSpec] = {}
    for name, content in given.items():
        block, _, key = name.rpartition(".")
        if key == "when":
            continue
        path = ("parameters", name)
        with document.collect():
            if not isinstance(content, dict):
                fix = f"write {key}: {{value: ...}} or {{values: [...]}}"
                raise document.error(path, f"{name}: {content!r} is not a mapping", fix)
            when: dict[str, tuple[Value, ...]] = {}
            with document.collect():
                when |= _read_conditions(document, ("parameters", f"{block}.when"))
                when |= _read_conditions(document, (*path, "when"))
            values, distribution = _read_domain(document, name, content)
            if not has_effect_in(task, name) and values != _default(name):
                raise document.error(path, f"{name} has no effect with task: {task}", "remove it")
            declared[name] = ParameterSpec(
                name=name, values=values, distribution=distribution, when=when
            )
    return declared


def _read_conditions(document: Document, path: tuple[str, ...]) -> Conditions:
    given = document.get(*path)
    if given is None:
        return {}
    if not isinstance(given, dict) or "source" in path:
        what = f"{path[1]}: when: {given!r} is not a condition"
        raise document.error(path, what, "write when: {source: gan}, not at source")
    conditions = {}
    for parent, accepted in given.items():
        values = accepted if isinstance(accepted, list) else [accepted]
        conditions[parent] = _read_values(document, (*path, parent), parent, values, "when: ")
    return conditions


@cache
def _adapter(name: str) -> TypeAdapter[tuple[Any, ...]]:
    field = PARAMETERS[name]
    several: Any = Several
    values: Any = Annotated[several[Annotated[field.annotation, field]], Field(min_length=1)]
    return TypeAdapter(values, config=ConfigDict(strict=True, allow_inf_nan=False))


def _read_values(
    document: Document, path: KeyPath, name: str, values: object, prefix: str = ""
) -> tuple[Value, ...]:
    """Return values of a parameter."""
    if name not in PARAMETERS:
        fix = nearest(name, [*PARAMETERS, *list_fields(Settings)])
        raise document.error(path, f"{prefix}unknown key '{name}'", fix)
    read = validate(document, _adapter(name), path, values, name=f"{prefix}{name}")
    return tuple(str(value) if isinstance(value, Path) else value for value in read)


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
            what = f"{name}: has {' and '.join(keys) or 'no value'}"
            fix = "write one of: {value: A}, {values: [A, B]}, {min: A, max: B}"
            raise document.error(path, what, fix)


def _read_range(
    document: Document, name: str, content: Mapping[str, Any]
) -> tuple[tuple[Value, ...], str | None]:
    path = ("parameters", name)
    low, high = _read_values(document, path, name, [content["min"], content["max"]])
    has_order = get_origin(PARAMETERS[name].annotation) is not Literal
    if not (has_order and isinstance(low, int | float) and isinstance(high, int | float)):
        what = f"{name}: its values have no order, so min and max do not apply"
        raise document.error(path, what, "write values: [a, b]")
    is_integer = isinstance(low, int)
    distribution = str(content.get("distribution", "uniform"))
    allowed = DISTRIBUTIONS if is_integer else DISTRIBUTIONS[:2]
    if distribution not in allowed:
        what = f"{name}.distribution: unknown value {distribution!r}"
        raise document.error((*path, "distribution"), what, nearest(distribution, allowed))
    if low > high or (distribution == "log_uniform_values" and low <= 0):
        what = f"{name}: there is no such range from min {low:g} to max {high:g}"
        fix = "write the smaller number first, above 0 if it has a logarithm"
        raise document.error((*path, "min"), what, fix)
    if low == high:
        return (low,), None
    if is_integer and distribution == "uniform":
        distribution = "int_uniform"
    return (low, high), distribution


def read_points(document: Document, specs: Sequence[ParameterSpec]) -> tuple[Point, ...]:
    """Return the values of searched parameters in each row.

    The sampler chooses those that a row does not give.

    Command-line options may exclude values of a row; one whose source they exclude is left out, as
    are rows that are equal or have no value of a searched parameter. Problems are collected in the
    document.
    """
    place = ("points_to_evaluate",)
    rows = validate(document, _ROWS, place, document.get(*place) or [])
    known = {spec.name: spec for spec in specs}
    points: list[Point] = []
    for number, row in enumerate(rows):
        kept: Point = {}
        with document.collect():
            for name, given in flatten_blocks(row).items():
                path = (*place, number, name)
                (value,) = _read_values(document, path, name, [given])
                spec = known.get(name)
                if spec and spec.contains(value):
                    kept[name] = value
                elif not document.has_options:
                    why = f"it is {spec}" if spec else "it is never active"
                    what = f"points_to_evaluate: {name}: {value} is not in the space: {why}"
                    raise document.error(path, what, "use a value of the space, or widen it")
        point = {name: kept[name] for name in known if name in kept and known[name].is_open}
        if ("source" in kept or "source" not in row) and point and point not in points:
            points.append(point)
    return tuple(points)
