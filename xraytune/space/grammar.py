"""Read the search space of a file.

`parameters:` has the values or the range of each parameter, and the conditions on which it is
active. `points_to_evaluate:` has the points that a search tries first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, ValidationError

from xraytune.space.document import Node, Problems, RejectedError
from xraytune.space.domains import Choices, Domain, Range, Value
from xraytune.space.fields import annotation_of, has_order, parameter_fields
from xraytune.space.messages import format_value, nearest
from xraytune.space.removed import explain_removed, is_dropped
from xraytune.space.settings import BLOCKS
from xraytune.space.space import Condition, ParameterSpec, Point
from xraytune.space.validation import explain

DISTRIBUTIONS = ("uniform", "int_uniform", "log_uniform_values")
SPEC_KEYS = ("value", "values", "min", "max", "distribution", "when")
"""The keys of a parameter."""


def path_of(root: Node, name: str) -> tuple[str, ...]:
    """Return where a file declares a parameter, or would: in its block or by its dotted name."""
    block, _, key = name.rpartition(".")
    if block and root.get("parameters", name) is None:
        return ("parameters", block, "parameters", key)
    return ("parameters", name)


def when_nodes(root: Node, name: str) -> list[Node]:
    """Return the conditions of a parameter: its own, and that of its block."""
    path = path_of(root, name)
    nodes = [root.get(*place, "when") for place in dict.fromkeys((path, path[:2]))]
    return [node for node in nodes if node]


def is_overridden(root: Node, names: Iterable[str]) -> bool:
    """Return whether a command-line option sets one of these parameters."""
    nodes = [root.get(*path_of(root, name)) for name in names]
    return any(node.is_option for node in nodes if node)


@cache
def _adapter(name: str) -> TypeAdapter[Value]:
    strict = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(annotation_of(parameter_fields()[name]), config=strict)


def _read_values(
    problems: Problems, name: str, nodes: Iterable[Node], prefix: str = ""
) -> tuple[Value, ...]:
    """Return values of a parameter; RejectedError, with a problem at each node that is invalid."""
    values: list[Value] = []
    before = len(problems)
    for node in nodes:
        try:
            value: Value | Path = _adapter(name).validate_python(node.plain())
        except ValidationError as error:
            what, fix = explain(name, error.errors())
            problems.add(node, prefix + what, fix)
        else:
            values.append(str(value) if isinstance(value, Path) else value)
    if len(problems) > before:
        raise RejectedError
    return tuple(values)


def _read_domain(problems: Problems, name: str, node: Node) -> Domain:
    given = node.mapping
    for key in given.keys() - set(SPEC_KEYS):
        problems.add(given[key], f"{name}: unknown key '{key}'", nearest(key, SPEC_KEYS))
    ways: list[str] = [way for way in ("value", "values") if way in given]
    if given.keys() & {"min", "max"}:
        ways.append("min and max")
    if len(ways) != 1:
        what = f"has both {' and '.join(ways)}" if ways else "has no value"
        problems.reject(node, f"{name}: {what}", "give one of: value, values, min and max")
    if ways == ["min and max"]:
        return _read_range(problems, name, node)

    if "distribution" in given:
        what = f"{name}: distribution needs min and max"
        problems.reject(given["distribution"], what, "remove distribution")
    if ways == ["value"]:
        return Choices(_read_values(problems, name, [given["value"]]))
    listed = given["values"]
    if not isinstance(listed.content, list) or not listed.content:
        what = "is empty" if listed.content == [] else "is not a list"
        problems.reject(listed, f"{name}: values: {what}", "write values: [A, B]")
    values = _read_values(problems, name, listed.content)
    for value in values:
        if values.count(value) > 1:
            problems.reject(listed, f"{name}: {format_value(value)} is listed twice", "keep one")
    return Choices(values)


def _read_range(problems: Problems, name: str, node: Node) -> Domain:
    given = node.mapping
    if not has_order(parameter_fields()[name]):
        what = f"{name}: its values have no order, so min and max do not apply"
        problems.reject(node, what, "write values: [a, b]")
    if "min" not in given or "max" not in given:
        problems.reject(node, f"{name}: has only one of min and max", "write both")
    low, high = _read_values(problems, name, [given["min"], given["max"]])
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        problems.reject(node, f"{name}: min and max are not numbers", "write two numbers")

    distribution = node.get("distribution") or Node(DISTRIBUTIONS[0], node.place)
    if distribution.content not in DISTRIBUTIONS:
        what = f"{name}.distribution: unknown value {format_value(distribution.content)}"
        problems.reject(distribution, what, nearest(distribution.content, DISTRIBUTIONS))
    is_log = distribution.content == "log_uniform_values"
    if low > high:
        what = f"{name}: min {low:g} is above max {high:g}"
        problems.reject(given["min"], what, f"write min: {high:g}, max: {low:g}")
    if distribution.content == "int_uniform" and not isinstance(low, int):
        what = f"{name}: int_uniform does not draw fractions"
        problems.reject(distribution, what, "write uniform, or values: [1, 2]")
    if is_log and low <= 0:
        fix = "write a small number above 0, or distribution: uniform"
        problems.reject(given["min"], f"{name}: min {low:g} has no logarithm", fix)
    if low == high:
        return Choices((low,))
    return Range(low=low, high=high, is_log=is_log, is_integer=isinstance(low, int))


def _read_conditions(problems: Problems, when: Node) -> list[Condition]:
    if not isinstance(when.content, dict):
        what = f"when: {format_value(when.content)} is not a mapping"
        problems.reject(when, what, "write when: {source: gan}")
    conditions = []
    for parent, accepted in when.content.items():
        _require_parameter(problems, parent, accepted, "when: ")
        nodes = accepted.content if isinstance(accepted.content, list) else [accepted]
        values = _read_values(problems, parent, nodes, "when: ")
        conditions.append(Condition(parameter=parent, one_of=values))
    return conditions


def _require_parameter(problems: Problems, name: str, node: Node, prefix: str = "") -> None:
    if name not in parameter_fields():
        fix = explain_removed(name) or nearest(name, parameter_fields())
        problems.reject(node, f"{prefix}unknown key '{name}'", fix)


def read_parameters(problems: Problems) -> dict[str, ParameterSpec]:
    """Return the parameters that a file declares, by dotted name; RejectedError if there are problems with any."""
    before = len(problems)
    places: dict[str, object] = {}
    specs: dict[str, ParameterSpec] = {}
    for name, node in _find_parameters(problems):
        with suppress(RejectedError):
            if name in places:
                what = f"{name}: is declared twice, first at {places[name]}"
                problems.reject(node, what, "keep one")
            places[name] = node.place
            specs[name] = _read_parameter(problems, name, node)
    if len(problems) > before:
        raise RejectedError
    return specs


def _read_parameter(problems: Problems, name: str, node: Node) -> ParameterSpec:
    if not isinstance(node.content, dict):
        value = format_value(node.content)
        way = "values: [...]" if isinstance(node.content, list) else f"value: {value}"
        fix = f"write {name.rpartition('.')[2]}: {{{way}}}"
        problems.reject(node, f"{name}: {value} is not a mapping", fix)
    _require_parameter(problems, name, node)
    conditions = []
    for when in when_nodes(problems.root, name):
        with suppress(RejectedError):
            conditions += _read_conditions(problems, when)
    domain = _read_domain(problems, name, node)
    return ParameterSpec(name=name, domain=domain, when=join_conditions(*conditions))


def _find_parameters(problems: Problems) -> Iterator[tuple[str, Node]]:
    """Yield each parameter of a file, also those in blocks, by its dotted name."""
    root = problems.root
    parameters = root.get("parameters") or Node({}, root.place)
    if not isinstance(parameters.content, dict):
        what = f"parameters: {format_value(parameters.content)} is not a mapping"
        problems.add(parameters, what, "write parameters: {lr: {value: 1e-4}}")
    for name, node in parameters.mapping.items():
        inside = node.get("parameters") or node
        if name in BLOCKS and inside is not node and isinstance(inside.content, dict):
            for key, inner in inside.content.items():
                if not _is_dropped(root, f"{name}.{key}", inner):
                    yield f"{name}.{key}", inner
            for key in node.mapping.keys() - {"when", "parameters"}:
                problems.add(
                    node.mapping[key],
                    f"{name}: unknown key '{key}'",
                    nearest(key, ("when", "parameters")),
                )
        elif name in BLOCKS:
            fix = f"write {name}: {{when: {{source: {name}}}, parameters: {{...}}}}"
            problems.add(node, f"{name}: the parameters of a block belong under parameters:", fix)
        elif not _is_dropped(root, name, node):
            yield name, node


def _is_dropped(root: Node, name: str, node: Node) -> bool:
    architecture = root.get(*path_of(root, "gan.architecture"), "value") or Node("", "")
    value = node.get("value")
    return value is not None and is_dropped(name, value.content, architecture.content)


def join_conditions(*conditions: Condition) -> tuple[Condition, ...]:
    """Join the conditions on each parameter into one; sorted by parameter."""
    joined: dict[str, Condition] = {}
    for condition in conditions:
        known = joined.get(condition.parameter)
        joined[condition.parameter] = known.joined(condition) if known else condition
    return tuple(joined[name] for name in sorted(joined))


def read_initial_points(problems: Problems, specs: Sequence[ParameterSpec]) -> tuple[Point, ...]:
    """Return the values of searched parameters in each row; the sampler chooses those that a row does not give.

    A row is left out if a command-line option excludes its source or fixes all its values, or if it
    equals an earlier one. Without `specs`, only the rows themselves are checked.
    """
    rows = problems.root.get("points_to_evaluate") or Node([], "")
    if not isinstance(rows.content, list):
        what = f"points_to_evaluate: {format_value(rows.content)} is not a list"
        problems.add(rows, what, "write points_to_evaluate: [{source: none, lr: 1e-4}]")
        return ()
    points: list[Point] = []
    for row in rows.content:
        with suppress(RejectedError):
            nodes = _flatten(problems, row)
            point = _read_point(problems, nodes, specs)
            if point is not None and point not in points:
                points.append(point)
    return tuple(points)


def _flatten(problems: Problems, row: Node) -> dict[str, Node]:
    """Return the values of a row by dotted name."""
    if not isinstance(row.content, dict):
        what = f"points_to_evaluate: {format_value(row.content)} is not a mapping"
        problems.reject(row, what, "write {source: none, lr: 1e-4}")
    flat: dict[str, Node] = {}
    for key, node in row.content.items():
        if key in BLOCKS and node.mapping:
            flat |= {f"{key}.{inner}": inside for inner, inside in node.mapping.items()}
        else:
            flat[key] = node
    return flat


def _read_point(
    problems: Problems, nodes: Mapping[str, Node], specs: Sequence[ParameterSpec]
) -> Point | None:
    """Return a row's values of searched parameters; None if options leave nothing of it.

    Command-line options override what rows give for a parameter.
    """
    prefix = "points_to_evaluate: "
    row: Point = {}
    for name, node in nodes.items():
        with suppress(RejectedError):
            _require_parameter(problems, name, node, prefix)
            (row[name],) = _read_values(problems, name, [node], prefix)
    if len(row) < len(nodes) or not specs:
        return None

    root = problems.root
    domains = {spec.name: spec.domain for spec in specs}
    accepted = set()
    for name, value in row.items():
        domain = domains.get(name)
        if domain is None and not is_overridden(root, parameter_fields()):
            what = f"{prefix}{name} is never active in this space"
            problems.add(nodes[name], what, f"remove {name}")
        elif domain and domain.contains(value):
            accepted.add(name)
        elif domain and not is_overridden(root, [name]):
            what = f"{prefix}{name}: {format_value(value)} is not in the space: {domain}"
            problems.add(nodes[name], what, "use a value of the space, or widen the space")
    if "source" in row and "source" not in accepted:
        return None
    point = {
        name: row[name] for name, domain in domains.items() if name in accepted and domain.is_open
    }
    return None if not point and is_overridden(root, row) else point
