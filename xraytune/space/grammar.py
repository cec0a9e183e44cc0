"""Read the search space of a file.

`parameters:` has the values or the range of each parameter, and the conditions on which it is active. `points_to_evaluate:`
has the points that a search tries first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NoReturn

from xraytune.base.records import Json
from xraytune.space.document import Document, KeyPath, Problems, RejectedError
from xraytune.space.domains import Choices, Domain, Range, Value
from xraytune.space.fields import ParameterField, parameter_fields
from xraytune.space.messages import format_value, nearest
from xraytune.space.paths import absolute_path, is_path
from xraytune.space.settings import BLOCKS, old_gan_values
from xraytune.space.space import Condition, ParameterSpec, Point, corner_points, family_of

ROOT: KeyPath = ("parameters",)
POINTS: KeyPath = ("points_to_evaluate",)
SPEC_KEYS = ("value", "values", "min", "max", "distribution", "when")
DISTRIBUTIONS = ("uniform", "int_uniform", "log_uniform_values")


def path_of(document: Document, name: str) -> KeyPath:
    """Return where a document declares a parameter, or would: in its block or by its dotted name."""
    flat = (*ROOT, name)
    block, _, key = name.rpartition(".")
    return flat if not block or flat in document.places else (*ROOT, block, "parameters", key)


def when_paths(document: Document, name: str) -> list[KeyPath]:
    """Return where the conditions of a parameter are: its own, and that of its block."""
    path = path_of(document, name)
    return [(*place, "when") for place in dict.fromkeys((path, path[:2])) if (*place, "when") in document.places]


def is_overridden(document: Document, names: Iterable[str]) -> bool:
    """Return whether a command-line option sets one of these parameters."""
    return any(document.is_option(path_of(document, name)) for name in names)


def read_values(
    field: ParameterField, paths: Sequence[KeyPath], problems: Problems, prefix: str = ""
) -> tuple[Value, ...]:
    """Return the values at some paths in the parameter's type, file paths absolute; RejectedError if any is invalid."""
    values: list[Value] = []
    for path in paths:
        try:
            value = field.read(problems.document.get(path))
        except ValueError as error:
            what, fix = error.args
            problems.add(path, prefix + what, fix)
            continue
        is_file = is_path(field.name, value)
        values.append(absolute_path(str(value), problems.document.folder(path)) if is_file else value)
    if len(values) < len(paths):
        raise RejectedError
    return tuple(values)


def read_parameters(problems: Problems) -> dict[str, ParameterSpec | None]:
    """Return the parameters that the document declares, by dotted name; None if there are problems with one."""
    declared: dict[str, ParameterSpec | None] = {}
    paths: dict[str, KeyPath] = {}
    for name, path in _declared_paths(problems):
        if name in declared:
            first = problems.document.place(paths[name])
            problems.add(path, f"{name}: is declared twice, first at {first}", "keep one")
            continue
        paths[name], declared[name] = path, None
        conditions: list[Condition] | None = None
        with suppress(RejectedError):
            places = when_paths(problems.document, name)
            conditions = [condition for place in places for condition in _read_when(problems, place)]
        with suppress(RejectedError):
            domain = _SpecReader(problems=problems, field=parameter_fields()[name], path=path).read()
            if conditions is not None:
                declared[name] = ParameterSpec(name=name, domain=domain, when=join_conditions(*conditions))
    return declared


def _declared_paths(problems: Problems) -> Iterator[tuple[str, KeyPath]]:
    entries = problems.document.mapping().get("parameters", {})
    if not isinstance(entries, dict):
        fix = "write parameters: {lr: {value: 1e-4}}"
        problems.add(ROOT, f"parameters: {format_value(entries)} is not a mapping", fix)
        return
    architecture = problems.document.get((*path_of(problems.document, "gan.architecture"), "value")) or "pca"
    old = {f"gan.{key}": value for key, value in old_gan_values(architecture).items()}
    for name in entries:
        path = (*ROOT, name)
        if name in old and problems.document.get((*path, "value")) == old[name]:
            continue
        if name in parameter_fields():
            yield name, path
        elif name in BLOCKS:
            yield from _paths_in_block(problems, name)
        else:
            problems.add(path, f"unknown parameter '{name}'", nearest(name, parameter_fields()))


def _paths_in_block(problems: Problems, block: str) -> Iterator[tuple[str, KeyPath]]:
    path = (*ROOT, block)
    content = problems.document.mapping(path)
    inner = content.get("parameters")
    form = f"write {block}: {{when: {{source: {block}}}, parameters: {{...}}}}"
    if not isinstance(inner, dict):
        problems.add(path, f"{block}: the parameters of a block belong under parameters:", form)
        return
    for key in (key for key in content if key not in ("when", "parameters")):
        problems.add((*path, key), f"{block}: unknown key '{key}'", nearest(key, ("when", "parameters"), form))
    for key in inner:
        here = (*path, "parameters", key)
        if f"{block}.{key}" in parameter_fields():
            yield f"{block}.{key}", here
        else:
            names = [name.removeprefix(f"{block}.") for name in parameter_fields() if name.startswith(f"{block}.")]
            problems.add(here, f"{block}: unknown parameter '{key}'", nearest(key, names))


def _read_when(problems: Problems, path: KeyPath) -> list[Condition]:
    content = problems.document.get(path)
    if not isinstance(content, dict) or not content:
        problems.reject(path, f"when: {format_value(content)} is not a condition", "write when: {source: gan}")
    return [_read_condition(problems, (*path, name), name, accepted) for name, accepted in content.items()]


def _read_condition(problems: Problems, path: KeyPath, name: str, accepted: Json) -> Condition:
    field = parameter_fields().get(name)
    if field is None:
        problems.reject(path, f"when: unknown parameter '{name}'", nearest(name, parameter_fields()))
    paths = [(*path, index) for index in range(len(accepted))] if isinstance(accepted, list) else [path]
    if not paths:
        problems.reject(path, f"when: no value of {name} is listed", "list one or more")
    return Condition(parameter=name, one_of=read_values(field, paths, problems, "when: "))


def join_conditions(*conditions: Condition) -> tuple[Condition, ...]:
    """Join the conditions on each parameter into one; sorted by parameter."""
    joined: dict[str, Condition] = {}
    for condition in conditions:
        known = joined.get(condition.parameter)
        joined[condition.parameter] = known.joined(condition) if known else condition
    return tuple(joined[name] for name in sorted(joined))


@dataclass(frozen=True, slots=True, kw_only=True)
class _SpecReader:
    """Read the domain of one parameter from its mapping at `path`."""

    problems: Problems
    field: ParameterField
    path: KeyPath

    def _reject(self, key: str | KeyPath, what: str, fix: str) -> NoReturn:
        keys = (key,) if isinstance(key, str) else key
        self.problems.reject((*self.path, *keys), f"{self.field.name}: {what}", fix)

    def read(self) -> Domain:
        content, key = self.problems.document.get(self.path), self.path[-1]
        if content is None:
            self._reject((), "is empty", f"write {key}: {{value: ...}}")
        if not isinstance(content, dict):
            way = "values: [...]" if isinstance(content, list) else f"value: {format_value(content)}"
            self._reject((), f"{format_value(content)} is not a mapping", f"write {key}: {{{way}}}")
        for unknown in (key for key in content if key not in SPEC_KEYS):
            self._reject(unknown, f"unknown key '{unknown}'", nearest(unknown, SPEC_KEYS))
        ways = [way for way in ("value", "values", "min") if way in content or (way == "min" and "max" in content)]
        if len(ways) != 1:
            what = f"has both {' and '.join(ways)}" if ways else "has no value"
            self._reject((), what, "give one of: value, values, min and max")
        if ways == ["min"]:
            return self._range(content)
        if "distribution" in content:
            self._reject("distribution", "distribution needs min and max", "remove distribution")
        return Choices(self._values(("value",)) if ways == ["value"] else self._choices(content))

    def _values(self, *paths: KeyPath) -> tuple[Value, ...]:
        return read_values(self.field, [(*self.path, *path) for path in paths], self.problems)

    def _choices(self, content: dict[str, Json]) -> tuple[Value, ...]:
        items = content["values"]
        if not isinstance(items, list) or not items:
            self._reject("values", f"values is {'not a list' if items else 'empty'}", "write values: [a, b]")
        values = self._values(*(("values", index) for index in range(len(items))))
        for index, value in enumerate(values):
            if value in values[:index]:
                self._reject(("values", index), f"{format_value(value)} is listed twice", "keep one")
        return values

    def _range(self, content: dict[str, Json]) -> Domain:
        if self.field.kind not in ("integer", "number"):
            self._reject("min", "its values have no order, so min and max do not apply", "write values: [a, b]")
        for bound in ("min", "max"):
            if bound not in content:
                self._reject((), f"has no {bound}", f"write {bound}: too")
        low, high = self._values(("min",), ("max",))
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        name = content.get("distribution")
        if "distribution" in content and name not in DISTRIBUTIONS:
            what = f"unknown distribution {format_value(name)}"
            self._reject("distribution", what, nearest(name, DISTRIBUTIONS))
        is_log = name == "log_uniform_values"
        if low > high:
            self._reject("min", f"min {low:g} is above max {high:g}", f"write min: {high:g}, max: {low:g}")
        is_integer = self.field.kind == "integer"
        if name == ("uniform" if is_integer else "int_uniform"):
            what = f"{name} does not draw {'whole numbers' if is_integer else 'fractions'}"
            self._reject("distribution", what, f"write {'int_uniform' if is_integer else 'uniform, or values: [1, 2]'}")
        if is_log and low <= 0:
            fix = "write a small number above 0, or distribution: uniform"
            self._reject("min", f"min {low:g} has no logarithm", fix)
        if low == high:
            return Choices((low,))
        return Range(low=low, high=high, is_log=is_log, is_integer=is_integer)


def read_initial_points(specs: Sequence[ParameterSpec], problems: Problems) -> tuple[Point, ...]:
    """Return the values of searched parameters in each row; the sampler chooses those that a row does not give.

    A row is left out if a command-line option excludes its source or fixes all its values, or if it equals an earlier one.
    Without `specs`, only the rows themselves are checked.
    """
    document = problems.document
    rows = document.get(POINTS)
    if POINTS not in document.places:
        return ()
    if not isinstance(rows, list):
        fix = "write points_to_evaluate: [{source: none, lr: 1e-4}]"
        problems.add(POINTS, f"points_to_evaluate: {format_value(rows)} is not a list", fix)
        return ()
    sources = [spec.domain for spec in specs if spec.name == "source"]
    points: list[Point] = []
    for index, row in enumerate(rows):
        path = (*POINTS, index)
        if not isinstance(row, dict):
            what = f"points_to_evaluate: {format_value(row)} is not a mapping"
            problems.add(path, what, "write {source: none, lr: 1e-4}")
            continue
        paths, values = dict(_flat(row, path, "")), Point()
        for name, place in paths.items():
            with suppress(RejectedError):
                values[name] = _read(name, place, problems)
        if not specs or len(values) < len(paths):
            continue
        point = _in_space(values, paths, specs, problems)
        is_excluded = "source" in values and not all(source.contains(values["source"]) for source in sources)
        is_fixed = not point and is_overridden(document, values)
        if not (is_excluded or is_fixed or point in points):
            points.append(point)
    return tuple(points)


def _flat(row: dict[str, Json], path: KeyPath, prefix: str) -> Iterator[tuple[str, KeyPath]]:
    for key, value in row.items():
        if key in BLOCKS and isinstance(value, dict):
            yield from _flat(value, (*path, key), f"{key}.")
        else:
            yield prefix + key, (*path, key)


def _read(name: str, path: KeyPath, problems: Problems) -> Value:
    field = parameter_fields().get(name)
    if field is None:
        fix = nearest(name, parameter_fields())
        problems.reject(path, f"points_to_evaluate: unknown parameter '{name}'", fix)
    return read_values(field, [path], problems, "points_to_evaluate: ")[0]


def _in_space(row: Point, paths: Mapping[str, KeyPath], specs: Sequence[ParameterSpec], problems: Problems) -> Point:
    """Return a row's values of searched parameters. Command-line options override what rows give for a parameter."""
    document, by_name, given = problems.document, {spec.name: spec for spec in specs}, dict(row)
    for spec in specs:
        refusal = _refusal(spec, given, specs) if spec.name in given else None
        if refusal and is_overridden(document, family_of([spec.name], by_name)):
            del given[spec.name]
        elif refusal:
            what, fix = refusal
            problems.add(paths[spec.name], f"points_to_evaluate: {what}", fix)
    if not any(path[:1] == ROOT and document.is_option(path) for path in document.places):
        for name in row.keys() - by_name:
            problems.add(paths[name], f"points_to_evaluate: {name} is never active in this space", f"remove {name}")
    return {name: given[name] for name, spec in by_name.items() if name in given and spec.domain.is_open}


def _refusal(spec: ParameterSpec, row: Point, specs: Sequence[ParameterSpec]) -> tuple[str, str] | None:
    """Return why a row cannot give its value of a parameter, and the fix; None if it can."""
    fixed = [replace(other, domain=Choices((row[other.name],))) if other.name in row else other for other in specs]
    is_active = [spec.name in point for point in corner_points(fixed, [spec.name])]
    if not any(is_active):
        return f"{spec.name} is only active where {' and '.join(map(str, spec.when))}", f"remove {spec.name}"
    if not all(is_active):
        family = family_of([spec.name], {other.name: other for other in fixed})
        parent = next(other.name for other in fixed if other.name in family and other.domain.is_open)
        return f"whether {spec.name} is active depends on {parent}", f"give {parent} in this row as well"
    if spec.domain.contains(row[spec.name]):
        return None
    fix = "use a value of the space, or widen the space"
    return f"{spec.name}: {format_value(row[spec.name])} is not in the space: {spec.domain}", fix
