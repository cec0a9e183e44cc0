"""Read the search space of a file.

`parameters:` has the values or the range of each parameter, and the conditions on which it is
active. `points_to_evaluate:` has the points that a search tries first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, create_model
from typing_extensions import TypedDict  # pydantic needs it for Python 3.11

from xraytune.space.document import Node, Problems, RejectedError
from xraytune.space.domains import Choices, Domain, Range, Value
from xraytune.space.fields import parameter_fields
from xraytune.space.messages import format_value, nearest
from xraytune.space.settings import BLOCKS, GanSettings
from xraytune.space.space import Condition, ParameterSpec, Point
from xraytune.space.strict_model import Several, StrictModel
from xraytune.space.validation import refuse, validate

DISTRIBUTIONS = ("uniform", "int_uniform", "log_uniform_values")
Item = TypeVar("Item")


class _Spec(TypedDict, Generic[Item], total=False):
    """How a file gives the values of a parameter: one, several, or a range."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # type: ignore[misc]
    value: Item
    values: Annotated[Several[Item], Field(min_length=1)]
    min: Item
    max: Item
    distribution: Literal["uniform", "int_uniform", "log_uniform_values"]


def _as_list(content: Any) -> Any:
    return content if isinstance(content, list) else [content]


def _as_text(value: Any) -> Value:
    return str(value) if isinstance(value, Path) else value


@cache
def _models() -> tuple[type[StrictModel], ...]:
    """Return models with a field for each parameter: its domain, the values of a condition, and its value at a point."""
    domains: dict[str, Any] = {}
    conditions: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for name, field in parameter_fields().items():
        value: Any = Annotated[field.annotation, AfterValidator(_as_text)]
        read_domain = partial(_read_domain, name, field.has_order)
        domains[name] = (Annotated[_Spec[value], AfterValidator(read_domain)], None)
        conditions[name] = (
            Annotated[Several[value], BeforeValidator(_as_list), Field(min_length=1)],
            None,
        )
        values[name] = (value, None)
    return tuple(
        create_model("Parameters", __base__=StrictModel, **each)
        for each in (domains, conditions, values)
    )


def _read_domain(name: str, has_order: bool, given: Mapping[str, Any]) -> Domain:
    ways = [way for way in ("value", "values") if way in given]
    if given.keys() & {"min", "max"}:
        ways.append("min and max")
    if len(ways) != 1:
        what = f"has both {' and '.join(ways)}" if ways else "has no value"
        refuse("", f"{name}: {what}", "give one of: value, values, min and max")
    if ways == ["min and max"]:
        if not has_order:
            refuse(
                "min",
                f"{name}: its values have no order, so min and max do not apply",
                "write values: [a, b]",
            )
        return _read_range(name, given)
    if "distribution" in given:
        refuse("distribution", f"{name}: distribution needs min and max", "remove distribution")
    values = given.get("values") or (given["value"],)
    for value in values:
        if values.count(value) > 1:
            refuse("values", f"{name}: {format_value(value)} is listed twice", "keep one")
    return Choices(values)


def _read_range(name: str, given: Mapping[str, Any]) -> Domain:
    if "min" not in given or "max" not in given:
        refuse("", f"{name}: has only one of min and max", "write both")
    low = given["min"]
    high = given["max"]
    distribution = given.get("distribution")
    is_integer = isinstance(low, int)
    is_log = distribution == "log_uniform_values"
    if low > high:
        refuse(
            "min",
            f"{name}: min {low:g} is above max {high:g}",
            f"write min: {high:g}, max: {low:g}",
        )
    if distribution == "int_uniform" and not is_integer:
        refuse(
            "distribution",
            f"{name}: int_uniform does not draw fractions",
            "write uniform, or values: [1, 2]",
        )
    if is_log and low <= 0:
        fix = "write a small number above 0, or distribution: uniform"
        refuse("min", f"{name}: min {low:g} has no logarithm", fix)
    if low == high:
        return Choices((low,))
    return Range(low=low, high=high, is_log=is_log, is_integer=is_integer)


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
    return any(isinstance(node.place, str) for node in nodes if node)


def read_parameters(problems: Problems) -> dict[str, ParameterSpec]:
    """Return the parameters that a file declares, by dotted name; RejectedError if there are problems with any."""
    before = len(problems)
    nodes: dict[str, Node] = {}
    for name, node in _find_parameters(problems):
        if name in nodes:
            problems.add(
                node, f"{name}: is declared twice, first at {nodes[name].place}", "keep one"
            )
        elif isinstance(node.content, dict):
            spec = {key: inside for key, inside in node.content.items() if key != "when"}
            nodes[name] = Node(spec, node.place)
        else:
            way = (
                "values: [...]"
                if isinstance(node.content, list)
                else f"value: {format_value(node.content)}"
            )
            what = f"{name}: {format_value(node.content)} is not a mapping"
            problems.add(node, what, f"write {name.rpartition('.')[2]}: {{{way}}}")

    domains_of, conditions_of, _ = _models()
    domains: dict[str, Any] = {}
    conditions: dict[str, list[Condition]] = {name: [] for name in nodes}
    with suppress(RejectedError):
        domains = dict(validate(problems, domains_of, Node(nodes, problems.root.place)))
    for name in nodes:
        for when in when_nodes(problems.root, name):
            with suppress(RejectedError):
                accepted = validate(problems, conditions_of, when, prefix="when: ")
                for parent in accepted.model_fields_set:
                    conditions[name].append(
                        Condition(parameter=parent, one_of=getattr(accepted, parent))
                    )
    if len(problems) > before:
        raise RejectedError
    return {
        name: ParameterSpec(
            name=name, domain=domains[name], when=join_conditions(*conditions[name])
        )
        for name in nodes
    }


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
            yield from ((f"{name}.{key}", inner) for key, inner in inside.content.items())
            for key in node.mapping.keys() - {"when", "parameters"}:
                problems.add(
                    node.mapping[key],
                    f"{name}: unknown key '{key}'",
                    nearest(key, ("when", "parameters")),
                )
        elif name in BLOCKS:
            fix = f"write {name}: {{when: {{source: {name}}}, parameters: {{...}}}}"
            problems.add(node, f"{name}: the parameters of a block belong under parameters:", fix)
        elif not _has_old_value(root, name, node):
            yield name, node


def _has_old_value(root: Node, name: str, node: Node) -> bool:
    """Return whether a parameter was removed, and has the value that means what is always done today."""
    architecture = root.get(*path_of(root, "gan.architecture"), "value")
    old = GanSettings.old_values({"architecture": architecture.content} if architecture else {})
    value = node.get("value")
    return value is not None and any(
        name == f"gan.{key}" and value.content == today for key, today in old.items()
    )


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
    *_, values_of = _models()
    points: list[Point] = []
    for row in rows.content:
        nodes = _flatten(row)
        with suppress(RejectedError):
            read = validate(problems, values_of, nodes, prefix="points_to_evaluate: ")
            values = {name: getattr(read, name) for name in read.model_fields_set}
            point = _choose_searched(problems, nodes, values, specs) if specs else None
            if point is not None and point not in points:
                points.append(point)
    return tuple(points)


def _flatten(row: Node) -> Node:
    """Return a row without blocks: its values by dotted name."""
    if not isinstance(row.content, dict):
        return row
    flat: dict[str, Node] = {}
    for key, node in row.content.items():
        if key in BLOCKS and node.mapping:
            flat |= {f"{key}.{inner}": inside for inner, inside in node.mapping.items()}
        else:
            flat[key] = node
    return Node(flat, row.place)


def _choose_searched(
    problems: Problems, nodes: Node, row: Point, specs: Sequence[ParameterSpec]
) -> Point | None:
    """Return a row's values of searched parameters; None if options leave nothing of it.

    Command-line options override what rows give for a parameter.
    """
    root = problems.root
    by_name = {spec.name: spec for spec in specs}
    refused = {
        name
        for name, value in row.items()
        if name not in by_name or not by_name[name].domain.contains(value)
    }
    for name in refused:
        if name not in by_name and not is_overridden(root, parameter_fields()):
            what = f"points_to_evaluate: {name} is never active in this space"
            problems.add(nodes.mapping[name], what, f"remove {name}")
        elif name in by_name and not is_overridden(root, [name]):
            value = format_value(row[name])
            what = (
                f"points_to_evaluate: {name}: {value} is not in the space: {by_name[name].domain}"
            )
            problems.add(nodes.mapping[name], what, "use a value of the space, or widen the space")
    given = row.keys() - refused
    point = {
        spec.name: row[spec.name] for spec in specs if spec.name in given and spec.domain.is_open
    }
    is_fixed = not point and is_overridden(root, row)
    return None if "source" in refused or is_fixed else point
