"""Read the search space of a file.

`parameters:` has the values or the range of each parameter, and the conditions on which it is
active. `points_to_evaluate:` has the points that a search tries first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field, TypeAdapter

from xraytune.space.document import Document, KeyPath
from xraytune.space.domains import Choices, Domain, Range, Value
from xraytune.space.fields import annotation_of, parameter_fields
from xraytune.space.messages import nearest
from xraytune.space.removed import explain_removed, is_dropped
from xraytune.space.settings import BLOCKS, TaskName, has_effect_in, has_effect_with
from xraytune.space.space import ParameterSpec, Point, corner_points
from xraytune.space.strict_model import Several
from xraytune.space.validation import validate

SPEC_KEYS = ("value", "values", "min", "max", "distribution")
DISTRIBUTIONS = ("uniform", "log_uniform_values", "int_uniform")
_ROWS = TypeAdapter(list[dict[str, Any]])


def flatten_blocks(document: Document) -> None:
    """Move the parameters of blocks to their dotted names, each with the condition of its block."""
    for block in BLOCKS:
        part = document.part("parameters", block)
        if not isinstance(part.content, dict):
            continue
        del document.content["parameters"][block]
        when = part.part("when")
        parameters = part.part("parameters") if isinstance(part.get("parameters"), dict) else part
        for key, content in parameters.content.items():
            path = ("parameters", f"{block}.{key}")
            if document.get(*path) is not None:
                what = f"{block}.{key}: is declared twice, first at {document.locate(path)}"
                raise parameters.error((key,), what, "keep one")
            if key != "when":
                document.put(path, parameters.part(key))
                if isinstance(content, dict) and "when" not in content and "when" in part.content:
                    document.put((*path, "when"), when)


def read_specs(document: Document, task: TaskName) -> tuple[ParameterSpec, ...]:
    """Return all parameters of a space, parents first.

    Problems with single ones are collected in the document.
    """
    given = document.get("parameters") or {}
    if not isinstance(given, dict):
        what = f"parameters: {given!r} is not a mapping"
        raise document.error(("parameters",), what, "write parameters: {lr: {value: 1e-4}}")
    declared: dict[str, ParameterSpec] = {}
    for name, content in given.items():
        if isinstance(content, dict) and "value" in content and is_dropped(name, content["value"]):
            continue
        with document.collect():
            spec = _read_spec(document, name, content)
            if not has_effect_in(task, name) and spec.domain != _default(name):
                what = f"{name} has no effect with task: {task}"
                raise document.error(("parameters", name), what, "remove it")
            declared[name] = spec

    return _complete(declared, task)


def _complete(declared: Mapping[str, ParameterSpec], task: TaskName) -> tuple[ParameterSpec, ...]:
    """Give parameters that are not declared, or whose conditions never hold, their defaults.

    Those without an effect at some sources get a condition on `source`, and those that are never
    active are dropped. So different points are different trials.
    """
    specs = {
        name: declared.get(name) or ParameterSpec(name=name, domain=_default(name))
        for name, field in parameter_fields().items()
        if has_effect_in(task, name) and (name in declared or not field.is_required())
    }
    sources = specs["source"].domain.corners
    for name, spec in specs.items():
        accepted = [each for each in sources if has_effect_with(each, name.partition(".")[0])]
        if len(accepted) < len(sources):
            of_file = spec.when.get("source", sources)
            both = tuple(each for each in of_file if each in accepted)
            specs[name] = ParameterSpec(
                name=name, domain=spec.domain, when={**spec.when, "source": both}
            )
    ordered: dict[str, ParameterSpec] = {}

    def place(name: str) -> None:
        for parent in sorted(specs[name].when.keys() & specs):
            place(parent)
        ordered.setdefault(name, specs[name])

    for name in specs:
        place(name)
    active = [
        spec
        for spec in ordered.values()
        if any(spec.name in point for point in corner_points([*ordered.values()], [spec.name]))
    ]
    used = {spec.name: declared[spec.name] for spec in active if spec.name in declared}
    return tuple(active) if len(used) == len(declared) else _complete(used, task)


def _default(name: str) -> Choices:
    return Choices((parameter_fields()[name].default,))


def _read_spec(document: Document, name: str, content: Any) -> ParameterSpec:
    path = ("parameters", name)
    if not isinstance(content, dict):
        fix = f"write {name.rpartition('.')[2]}: {{value: ...}} or {{values: [...]}}"
        raise document.error(path, f"{name}: {content!r} is not a mapping", fix)
    _require_parameter(document, path, name)
    conditions = content.get("when")
    when: dict[str, tuple[Value, ...]] = {}
    with document.collect():
        if conditions is not None and (not isinstance(conditions, dict) or name == "source"):
            what = f"{name}: when: {conditions!r} is not a condition"
            raise document.error((*path, "when"), what, "write when: {source: gan}, not at source")
        for parent, accepted in (conditions or {}).items():
            listed = accepted if isinstance(accepted, list) else [accepted]
            place = (*path, "when", parent)
            when[parent] = _read_values(document, place, parent, listed, "when: ")
    return ParameterSpec(name=name, domain=_read_domain(document, name, content), when=when)


def _require_parameter(document: Document, path: KeyPath, name: str, prefix: str = "") -> None:
    if name not in parameter_fields():
        fix = explain_removed(name) or nearest(name, parameter_fields())
        raise document.error(path, f"{prefix}unknown key '{name}'", fix)


@cache
def _adapter(name: str) -> TypeAdapter[tuple[Any, ...]]:
    several: Any = Several
    values: Any = several[annotation_of(parameter_fields()[name])]
    values = Annotated[values, Field(min_length=1)]
    return TypeAdapter(values, config=ConfigDict(strict=True, allow_inf_nan=False))


def _read_values(
    document: Document, path: KeyPath, name: str, values: object, prefix: str = ""
) -> tuple[Value, ...]:
    """Return values of a parameter."""
    _require_parameter(document, path, name, prefix)
    read = validate(document, _adapter(name), path, values, name=f"{prefix}{name}")
    return tuple(str(value) if isinstance(value, Path) else value for value in read)


def _read_domain(document: Document, name: str, content: Mapping[str, Any]) -> Domain:
    path = ("parameters", name)
    keys = content.keys() - {"when"}
    if keys in ({"value"}, {"values"}):
        (key,) = keys
        values = content["values"] if key == "values" else [content["value"]]
        read = _read_values(document, (*path, key), name, values)
        return Choices(tuple(dict.fromkeys(read)))
    if not {"min", "max"} <= keys <= {"min", "max", "distribution"}:
        what = f"{name}: has {' and '.join(sorted(keys)) or 'no value'}"
        fix = "write one of: {value: A}, {values: [A, B]}, {min: A, max: B}"
        raise document.error(path, what, fix)

    low, high = _read_values(document, path, name, [content["min"], content["max"]])
    field = parameter_fields()[name]
    has_order = not {int, float}.isdisjoint((field.annotation, *get_args(field.annotation)))
    if not (has_order and isinstance(low, int | float) and isinstance(high, int | float)):
        what = f"{name}: its values have no order, so min and max do not apply"
        raise document.error(path, what, "write values: [a, b]")
    is_integer = isinstance(low, int)
    distribution = content.get("distribution", "uniform")
    allowed = DISTRIBUTIONS if is_integer else DISTRIBUTIONS[:2]
    if distribution not in allowed:
        what = f"{name}.distribution: unknown value {distribution!r}"
        raise document.error((*path, "distribution"), what, nearest(distribution, allowed))
    is_log = distribution == "log_uniform_values"
    if low > high or (is_log and low <= 0):
        what = f"{name}: there is no such range from min {low:g} to max {high:g}"
        fix = "write the smaller number first, above 0 if it has a logarithm"
        raise document.error((*path, "min"), what, fix)
    if low == high:
        return Choices((low,))
    return Range(low=low, high=high, is_log=is_log, is_integer=is_integer)


def read_points(document: Document, specs: Sequence[ParameterSpec]) -> tuple[Point, ...]:
    """Return the values of searched parameters in each row.

    The sampler chooses those that a row does not give.

    Command-line options may exclude values of a row; one whose source they exclude is left out, as
    are rows that are equal or have no value of a searched parameter. Problems are collected in the
    document.
    """
    place = ("points_to_evaluate",)
    rows = validate(document, _ROWS, place, document.get(*place) or [])
    has_options = any(
        isinstance(document.locate(("parameters", name)), str) for name in parameter_fields()
    )
    domains = {spec.name: spec.domain for spec in specs}
    points: list[Point] = []
    for number, row in enumerate(rows):
        named: dict[str, Any] = {}
        for key, given in row.items():
            if key in BLOCKS and isinstance(given, dict):
                named |= {f"{key}.{inner}": value for inner, value in given.items()}
            else:
                named[key] = given
        kept: Point = {}
        with document.collect():
            for name, given in named.items():
                path = (*place, number, name)
                (value,) = _read_values(document, path, name, [given])
                domain = domains.get(name)
                if domain and domain.contains(value):
                    kept[name] = value
                elif not has_options:
                    why = f"it is {domain}" if domain else "it is never active"
                    what = f"points_to_evaluate: {name}: {value} is not in the space: {why}"
                    raise document.error(path, what, "use a value of the space, or widen it")
        point = {name: kept[name] for name in domains if name in kept and domains[name].is_open}
        if ("source" in kept or "source" not in row) and point and point not in points:
            points.append(point)
    return tuple(points)
