"""Reads `when:`, the conditions on which a parameter counts, and single values of parameters.

`{x: v}`, `{x: [a, b]}` and `{x: {gt: 1}}` become `Condition`s; whatever does not fit goes to `Problems`.
"""

from __future__ import annotations

from math import isfinite

from xraytune.config.document import Document, KeyPath, Problems
from xraytune.config.domains import Value
from xraytune.config.fields import ParameterField, parameter_fields
from xraytune.config.messages import nearest, shown
from xraytune.config.resolved import absolute_path, is_path
from xraytune.config.space import COMPARISONS, Condition
from xraytune.records import Json


def read_value(document: Document, field: ParameterField, path: KeyPath, value: Json) -> Value:
    """A value in the parameter's own type; a path is made absolute.

    Raises:
        ValueError: It does not fit; the two arguments are what is wrong and the fix.
    """
    read = field.read(value)
    return absolute_path(read, document.folder(path)) if isinstance(read, str) and is_path(field.name, read) else read


def read_when(document: Document, problems: Problems, path: KeyPath) -> tuple[Condition, ...] | None:
    """The conditions of the `when:` at a path; None when there was a problem with them."""
    content = document.get(path)
    if not isinstance(content, dict) or not content:
        problems.add(path, f"when: {shown(content)} is not a condition", "write when: {source: gan}")
        return None
    conditions: list[Condition | None] = []
    for name, accepted in content.items():
        here, field = (*path, name), parameter_fields().get(name)
        if field is None:
            inner = [known for known in parameter_fields() if known.endswith(f".{name}")]
            fix = f"did you mean '{inner[0]}'?" if inner else nearest(name, parameter_fields())
            problems.add(here, f"when: unknown parameter '{name}'", fix)
            conditions.append(None)
        elif isinstance(accepted, dict):
            conditions.append(_read_limits(problems, field, here, accepted))
        else:
            conditions.append(_read_accepted(document, problems, field, here, accepted))
    whole = tuple(condition for condition in conditions if condition)
    return whole if len(whole) == len(conditions) else None


def _read_accepted(
    document: Document, problems: Problems, field: ParameterField, path: KeyPath, accepted: Json
) -> Condition | None:
    items: dict[KeyPath, Json] = {path: accepted}
    if isinstance(accepted, list):
        items = {(*path, index): item for index, item in enumerate(accepted)}
    if not items:
        problems.add(path, f"when: no value of {field.name} is listed", "list one or more")
    values = []
    for here, value in items.items():
        try:
            values.append(read_value(document, field, here, value))
        except ValueError as error:
            what, fix = error.args
            problems.add(here, f"when: {what}", fix)
    return Condition(parameter=field.name, one_of=tuple(values)) if values and len(values) == len(items) else None


def _read_limits(problems: Problems, field: ParameterField, path: KeyPath, limits: dict[str, Json]) -> Condition | None:
    if field.kind not in ("integer", "number"):
        problems.add(path, f"when: {field.name} has no order to compare by", f"list values: {{{field.name}: [a, b]}}")
        return None
    if not limits:
        problems.add(path, f"when: no comparison with {field.name}", f"write {{{field.name}: {{gt: 1}}}}")
    read = []
    for name, limit in limits.items():
        if name not in COMPARISONS:
            problems.add((*path, name), f"when: unknown comparison '{name}'", nearest(name, COMPARISONS))
        elif isinstance(limit, bool) or not isinstance(limit, int | float) or not isfinite(limit):
            problems.add((*path, name), f"when: {shown(limit)} is not a number", "write a number")
        else:
            read.append((name, limit))
    is_whole = read and len(read) == len(limits)
    return Condition(parameter=field.name, limits=tuple(sorted(read))) if is_whole else None


def join_conditions(*conditions: Condition) -> tuple[Condition, ...]:
    """The same, with one condition for each parameter, by name."""
    joined: dict[str, Condition] = {}
    for condition in conditions:
        known = joined.get(condition.parameter)
        joined[condition.parameter] = known.joined(condition) if known else condition
    return tuple(joined[name] for name in sorted(joined))
