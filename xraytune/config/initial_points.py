"""Reads `points_to_evaluate:`, the points that a search tries first, and checks that each lies in the space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xraytune.config.document import Document, KeyPath, Problems
from xraytune.config.domains import Value
from xraytune.config.fields import BLOCKS, parameter_fields
from xraytune.config.grammar import path_of, read_value
from xraytune.config.messages import nearest, shown
from xraytune.config.space import ParameterSpec, Point, family_of
from xraytune.records import Json

ROOT: KeyPath = ("points_to_evaluate",)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialPoint:
    """One row as it is written: values in their parameters' types, and where each stands."""

    point: Point
    paths: Mapping[str, KeyPath]


def read_initial_points(document: Document, problems: Problems) -> tuple[InitialPoint, ...]:
    """The rows of `points_to_evaluate:` in which each name and each value is right by itself."""
    rows = document.get(ROOT)
    if ROOT not in document.places:
        return ()
    if not isinstance(rows, list):
        problems.add(
            ROOT,
            f"points_to_evaluate: {shown(rows)} is not a list",
            "write points_to_evaluate: [{source: none, lr: 1e-4}]",
        )
        return ()
    read = (_read_row(document, problems, (*ROOT, index), row) for index, row in enumerate(rows))
    return tuple(row for row in read if row)


def _read_row(document: Document, problems: Problems, path: KeyPath, row: Json) -> InitialPoint | None:
    point: Point = {}
    paths: dict[str, KeyPath] = {}
    if not isinstance(row, dict):
        problems.add(path, f"points_to_evaluate: {shown(row)} is not a mapping", "write {source: none, lr: 1e-4}")
        return None
    entries = list(_flat(row, path, ""))
    for name, here, value in entries:
        field = parameter_fields().get(name)
        if name in BLOCKS:
            problems.add(
                here,
                f"points_to_evaluate: {name} is a block",
                f"write {name}: {{...}} with its parameters, or {name}.KEY",
            )
            continue
        if field is None:
            problems.add(here, f"points_to_evaluate: unknown parameter '{name}'", nearest(name, parameter_fields()))
            continue
        try:
            point[name] = read_value(document, field, here, value)
            paths[name] = here
        except ValueError as error:
            what, fix = error.args
            problems.add(here, f"points_to_evaluate: {what}", fix)
    return InitialPoint(point=point, paths=paths) if len(point) == len(entries) else None


def _flat(row: dict[str, Json], path: KeyPath, prefix: str) -> Iterator[tuple[str, KeyPath, Json]]:
    for key, value in row.items():
        if key in BLOCKS and isinstance(value, dict):
            yield from _flat(value, (*path, key), f"{key}.")
        else:
            yield prefix + key, (*path, key), value


def initial_point(row: InitialPoint, specs: Sequence[ParameterSpec], document: Document, problems: Problems) -> Point:
    """A row as a point of the space: the values of open parameters alone; what it leaves open, the sampler chooses.

    An option of the command line stands for what the row says of its parameter, and of those that depend on it.
    """
    known: Point = {}
    undecided: set[str] = set()
    refused: set[str] = set()
    for spec in specs:
        if any(condition.parameter in refused for condition in spec.when):
            refused.add(spec.name)
            continue
        waits_for = [condition.parameter for condition in spec.when if condition.parameter in undecided]
        refusal = _refusal(spec, row.point[spec.name], known, waits_for) if spec.name in row.point else None
        if refusal is not None and not _is_overridden(spec, specs, document):
            what, fix = refusal
            problems.add(row.paths[spec.name], f"points_to_evaluate: {what}", fix)
            refused.add(spec.name)
        elif refusal is None and spec.name in row.point:
            known[spec.name] = row.point[spec.name]
        elif waits_for or (spec.domain.is_open and spec.counts_at(known)):
            undecided.add(spec.name)
        elif spec.counts_at(known):
            (known[spec.name],) = spec.domain.corners(())
    if not any(path[:1] == ("parameters",) and place.is_on_command_line for path, place in document.places.items()):
        for name in row.point.keys() - {spec.name for spec in specs}:
            problems.add(row.paths[name], f"points_to_evaluate: {name} never counts in this space", f"remove {name}")
    return {spec.name: known[spec.name] for spec in specs if spec.name in known and spec.domain.is_open}


def _is_overridden(spec: ParameterSpec, specs: Sequence[ParameterSpec], document: Document) -> bool:
    """Whether an option of the command line says what the parameter, or one that its condition reads, may be."""
    family = family_of([spec.name], {known.name: known for known in specs})
    return any(document.place(path_of(document, name)).is_on_command_line for name in family)


def _refusal(spec: ParameterSpec, value: Value, known: Point, waits_for: Sequence[str]) -> tuple[str, str] | None:
    """Why a row may not give this value, and the fix; None: it may."""
    if waits_for:
        return f"whether {spec.name} counts depends on {waits_for[0]}", f"give {waits_for[0]} in this row too"
    if not spec.counts_at(known):
        return f"{spec.name} counts only where {' and '.join(map(str, spec.when))}", f"remove {spec.name}"
    if spec.domain.contains(value):
        return None
    fix = "use a value of the space, or widen the space"
    return f"{spec.name}: {shown(value)} lies outside of the space, {spec.domain}", fix
