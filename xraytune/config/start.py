"""Reads `start_from:`, the points that a search tries first, and checks that each lies in the space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xraytune.config.conditions import read_value
from xraytune.config.domains import Value
from xraytune.config.fields import BLOCKS, parameter_fields
from xraytune.config.grammar import path_of
from xraytune.config.space import ParameterSpec, Point
from xraytune.config.words import nearest, shown
from xraytune.config.yaml_lines import Document, KeyPath, Problems
from xraytune.records import Json

ROOT: KeyPath = ("start_from",)


def read_start_from(document: Document, specs: Sequence[ParameterSpec], problems: Problems) -> tuple[Point, ...]:
    """The points, each with the values of open parameters alone; what a row leaves open, the sampler chooses."""
    rows = document.get(ROOT)
    if ROOT not in document.places:
        return ()
    if not isinstance(rows, list):
        problems.add(ROOT, f"start_from: {shown(rows)} is not a list", "write start_from: [{source: none, lr: 1e-4}]")
        return ()
    return tuple(_read_row(document, specs, problems, (*ROOT, index), row) for index, row in enumerate(rows))


def _read_row(
    document: Document, specs: Sequence[ParameterSpec], problems: Problems, path: KeyPath, row: Json
) -> Point:
    if not isinstance(row, dict):
        problems.add(path, f"start_from: {shown(row)} is not a mapping", "write {source: none, lr: 1e-4}")
        return {}
    given: dict[str, KeyPath] = {}
    point: Point = {}
    for name, here, value in _flat(row, path, ""):
        if name not in parameter_fields():
            problems.add(here, f"start_from: unknown parameter '{name}'", nearest(name, parameter_fields()))
            continue
        try:
            point[name] = read_value(document, parameter_fields()[name], here, value)
            given[name] = here
        except ValueError as error:
            what, fix = error.args
            problems.add(here, f"start_from: {what}", fix)
    return _checked(point, given, document, specs, problems)


def _flat(row: dict[str, Json], path: KeyPath, prefix: str) -> Iterator[tuple[str, KeyPath, Json]]:
    for key, value in row.items():
        if key in BLOCKS and isinstance(value, dict):
            yield from _flat(value, (*path, key), f"{key}.")
        else:
            yield prefix + key, (*path, key), value


def _checked(
    point: Point, given: dict[str, KeyPath], document: Document, specs: Sequence[ParameterSpec], problems: Problems
) -> Point:
    """The open parameters' values of a row that lies in the space; problems, parents before children, if it does not."""
    known: Point = {}
    undecided: set[str] = set()
    """Parameters that the row leaves to the sampler, or gives wrongly."""
    for spec in specs:
        waits_for = [condition.parameter for condition in spec.when if condition.parameter in undecided]
        if spec.name in given:
            refusal = _refusal(spec, point[spec.name], known, waits_for, document)
            if refusal is None:
                known[spec.name] = point[spec.name]
            else:
                what, fix = refusal
                problems.add(given[spec.name], f"start_from: {what}", fix)
                undecided.add(spec.name)
        elif waits_for or (spec.domain.is_open and spec.counts_at(known)):
            undecided.add(spec.name)
        elif spec.counts_at(known):
            (known[spec.name],) = spec.domain.corners(())
    for name in given.keys() - {spec.name for spec in specs}:
        problems.add(given[name], f"start_from: {name} never counts in this space", f"remove {name}")
    return {spec.name: known[spec.name] for spec in specs if spec.name in known and spec.domain.is_open}


def _refusal(
    spec: ParameterSpec, value: Value, known: Point, waits_for: Sequence[str], document: Document
) -> tuple[str, str] | None:
    """Why a row may not give this value, and the fix; None: it may."""
    if waits_for:
        return f"{spec.name} counts or not depending on {waits_for[0]}", f"give {waits_for[0]} a value in this row"
    if not spec.counts_at(known):
        return f"{spec.name} counts only where {' and '.join(map(str, spec.when))}", f"remove {spec.name}"
    if spec.domain.contains(value):
        return None
    by_option = document.place(path_of(document, spec.name)).is_on_command_line
    fix = "add --set 'start_from=[]'" if by_option else "use a value of the space, or widen the space"
    return f"{spec.name}: {shown(value)} lies outside of the space, {spec.domain}", fix
