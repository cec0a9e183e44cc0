"""Read `points_to_evaluate:`, the points that a search tries first, and check that each is in the space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from xraytune.base.records import Json
from xraytune.space.document import KeyPath, Problems, RejectedError, dotted
from xraytune.space.domains import Value
from xraytune.space.fields import parameter_fields
from xraytune.space.grammar import ROOT as PARAMETERS
from xraytune.space.grammar import is_overridden, path_of, read_values
from xraytune.space.messages import format_value, nearest
from xraytune.space.settings import BLOCKS
from xraytune.space.space import ParameterSpec, Point, family_of

ROOT: KeyPath = ("points_to_evaluate",)


def read_initial_points(
    specs: Sequence[ParameterSpec], problems: Problems
) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """Return the values of searched parameters in each row, and notes on the rows that are left out.

    The sampler chooses the values that a row does not give. A row is left out if a command-line option excludes its source,
    fixes all its values, or makes it equal to another row. Without `specs`, only the rows themselves are checked.
    """
    document = problems.document
    rows = document.get(ROOT)
    if ROOT not in document.places:
        return (), ()
    if not isinstance(rows, list):
        fix = "write points_to_evaluate: [{source: none, lr: 1e-4}]"
        problems.add(ROOT, f"points_to_evaluate: {format_value(rows)} is not a list", fix)
        return (), ()
    by_name = {spec.name: spec for spec in specs}
    points: dict[str, Point] = {}
    notes: list[str] = []
    for index, row in enumerate(rows):
        path = (*ROOT, index)
        if not isinstance(row, dict):
            what = f"points_to_evaluate: {format_value(row)} is not a mapping"
            problems.add(path, what, "write {source: none, lr: 1e-4}")
            continue
        point: Point = {}
        paths: dict[str, KeyPath] = {}
        for name, here in _flat(row, path, ""):
            paths[name] = here
            with suppress(RejectedError):
                point[name] = _read(name, here, problems)
        if specs and len(point) == len(paths):
            options = {name: document.option(path_of(document, name)) for name in paths if name in by_name}
            in_space = _in_space(point, paths, by_name, problems)
            if (option := options.get("source")) and not by_name["source"].domain.contains(point["source"]):
                why = f"{option} excludes its source, {format_value(point['source'])}"
            elif equal := [name for name, known in points.items() if known == in_space]:
                why = f"it equals {equal[0]}"
            elif (given := [option for option in options.values() if option]) and not in_space:
                why = f"{' and '.join(dict.fromkeys(given))} fix{'es' * (len(given) == 1)} all its values"
            else:
                points[dotted(path)] = in_space
                continue
            notes.append(f"{document.place(path)}: {dotted(path)} is left out: {why}")
    return tuple(points.values()), tuple(notes)


def _flat(row: dict[str, Json], path: KeyPath, prefix: str) -> Iterator[tuple[str, KeyPath]]:
    for key, value in row.items():
        if key in BLOCKS and isinstance(value, dict):
            yield from _flat(value, (*path, key), f"{key}.")
        else:
            yield prefix + key, (*path, key)


def _read(name: str, path: KeyPath, problems: Problems) -> Value:
    field = parameter_fields().get(name)
    if name in BLOCKS:
        fix = f"write {name}: {{...}} with its parameters, or {name}.KEY"
        problems.reject(path, f"points_to_evaluate: {name} is a block", fix)
    if field is None:
        fix = nearest(name, parameter_fields())
        problems.reject(path, f"points_to_evaluate: unknown parameter '{name}'", fix)
    return read_values(field, [path], problems, "points_to_evaluate: ")[0]


def _in_space(
    row: Point, paths: Mapping[str, KeyPath], by_name: Mapping[str, ParameterSpec], problems: Problems
) -> Point:
    """Return a row as a point of the space. Command-line options override what rows give for a parameter."""
    point: Point = {}
    undecided: set[str] = set()
    rejected: set[str] = set()
    for spec in by_name.values():
        parents = [condition.parameter for condition in spec.when]
        if not rejected.isdisjoint(parents):
            rejected.add(spec.name)
            continue
        open_parents = [parent for parent in parents if parent in undecided]
        refusal = _refusal(spec, row[spec.name], point, open_parents) if spec.name in row else None
        if refusal is None and spec.name in row:
            point[spec.name] = row[spec.name]
        elif refusal and not is_overridden(problems.document, family_of([spec.name], by_name)):
            what, fix = refusal
            problems.add(paths[spec.name], f"points_to_evaluate: {what}", fix)
            rejected.add(spec.name)
        elif open_parents or (spec.domain.is_open and spec.is_active_at(point)):
            undecided.add(spec.name)
        elif spec.is_active_at(point):
            (point[spec.name],) = spec.domain.corners(())
    document = problems.document
    if not any(path[:1] == PARAMETERS and document.option(path) for path in document.places):
        for name in row.keys() - by_name:
            problems.add(paths[name], f"points_to_evaluate: {name} is never active in this space", f"remove {name}")
    return {name: point[name] for name, spec in by_name.items() if name in point and spec.domain.is_open}


def _refusal(spec: ParameterSpec, value: Value, point: Point, open_parents: Sequence[str]) -> tuple[str, str] | None:
    if open_parents:
        return (
            f"whether {spec.name} is active depends on {open_parents[0]}",
            f"give {open_parents[0]} in this row as well",
        )
    if not spec.is_active_at(point):
        return f"{spec.name} is only active where {' and '.join(map(str, spec.when))}", f"remove {spec.name}"
    if spec.domain.contains(value):
        return None
    fix = "use a value of the space, or widen the space"
    return f"{spec.name}: {format_value(value)} is not in the space: {spec.domain}", fix
