"""Reads the `parameters:` of a space file, in the dialect of W&B sweeps with `when:` and `step:`.

Takes a `Document`, gives the parameters that it declares; whatever does not fit goes to `Problems` with its key path.
How the parameters go together is the matter of checks.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import isfinite

from xraytune.config.document import Document, KeyPath, Problems
from xraytune.config.domains import Choices, Domain, FloatRange, IntRange, Value
from xraytune.config.fields import BLOCKS, ParameterField, parameter_fields
from xraytune.config.messages import nearest, shown
from xraytune.config.resolved import absolute_path, is_path
from xraytune.config.space import COMPARISONS, Condition, ParameterSpec
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


ROOT: KeyPath = ("parameters",)
SPEC_KEYS = ("value", "values", "min", "max", "distribution", "step", "q", "when")
DISTRIBUTIONS = ("categorical", "constant", "uniform", "q_uniform", "int_uniform", "log_uniform_values")
_RANGES = {"uniform", "q_uniform", "int_uniform", "log_uniform_values"}
_CHOICES_SHOWN = 8
_MOST_POINTS = 10**15
"""Beyond it, a number no longer tells neighbours apart."""
_REFUSED = {
    "log_uniform": "its bounds are exponents; write log_uniform_values with the bounds themselves",
    "categorical_w_probabilities": "every value is equally likely; write values: alone",
}
_NO_COUNTERPART = ("normal", "beta", "q_", "inv_log_uniform")
_REFUSED_KEYS = {
    "probabilities": "every value is equally likely; remove it",
    "mu": "normal distributions have no counterpart in Optuna; write min: and max:",
    "sigma": "normal distributions have no counterpart in Optuna; write min: and max:",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One parameter that a document declares.

    Attributes:
        spec: What it says; None: there was a problem with it.
        path: Where it is declared.
        when_path: Where its condition stands: its own, or that of its block.
    """

    spec: ParameterSpec | None
    path: KeyPath
    when_path: KeyPath


def path_of(document: Document, name: str) -> KeyPath:
    """Where a document declares a parameter, or would: `gan.steps` in the block `gan`, or by its dotted name."""
    flat = (*ROOT, name)
    block, _, key = name.rpartition(".")
    return flat if not block or flat in document.places else (*ROOT, block, "parameters", key)


def read_parameters(document: Document, problems: Problems) -> dict[str, Declaration]:
    """The parameters that the document declares, by dotted name."""
    declared: dict[str, Declaration] = {}
    for name, path, block_path in _named_specs(document, problems):
        if name in declared:
            first = document.place(declared[name].path).where
            problems.add(path, f"{name}: is declared twice, first at {first}", "keep one")
            continue
        domain = _DomainReader(document=document, problems=problems, field=parameter_fields()[name], path=path).read()
        when_paths = [
            (*place, "when") for place in dict.fromkeys((path, block_path)) if (*place, "when") in document.places
        ]
        whens = [read_when(document, problems, place) for place in when_paths]
        when = [condition for conditions in whens for condition in conditions or ()]
        spec = None
        if domain is not None and None not in whens:
            spec = ParameterSpec(name=name, domain=domain, when=join_conditions(*when))
        declared[name] = Declaration(spec=spec, path=path, when_path=(*when_paths, path)[0])
    return declared


def _named_specs(document: Document, problems: Problems) -> Iterator[tuple[str, KeyPath, KeyPath]]:
    entries = document.get(ROOT)
    if not isinstance(entries, dict):
        if ROOT in document.places:
            problems.add(
                ROOT, f"parameters: {shown(entries)} is not a mapping", "write parameters: {lr: {value: 1e-4}}"
            )
        return
    for name in entries:
        path = (*ROOT, name)
        if name in parameter_fields():
            yield name, path, path
        elif name in BLOCKS:
            yield from _block_specs(document, problems, name)
        else:
            problems.add(path, f"unknown parameter '{name}'", nearest(name, parameter_fields()))


def _block_specs(document: Document, problems: Problems, block: str) -> Iterator[tuple[str, KeyPath, KeyPath]]:
    path = (*ROOT, block)
    content = document.get(path)
    form = f"write {block}: {{when: {{source: {block}}}, parameters: {{...}}}}"
    if not isinstance(content, dict) or not isinstance(content.get("parameters"), dict):
        problems.add(path, f"{block}: a block has its settings under parameters:", form)
        return
    for key in content:
        if key not in ("when", "parameters"):
            problems.add((*path, key), f"{block}: unknown key '{key}'", nearest(key, ("when", "parameters"), form))
    inner = content["parameters"]
    assert isinstance(inner, dict)
    for key in inner:
        name, here = f"{block}.{key}", (*path, "parameters", key)
        if name in parameter_fields():
            yield name, here, path
        else:
            names = [field.removeprefix(f"{block}.") for field in parameter_fields() if field.startswith(f"{block}.")]
            problems.add(here, f"{block}: unknown parameter '{key}'", nearest(key, names))


@dataclass(frozen=True, slots=True, kw_only=True)
class _DomainReader:
    """Reads what one parameter may be from its mapping at `path`."""

    document: Document
    problems: Problems
    field: ParameterField
    path: KeyPath

    def read(self) -> Domain | None:
        """The domain, or None when there was a problem with it."""
        content = self.document.get(self.path)
        if not isinstance(content, dict):
            self.problems.add(self.path, *self._not_a_spec(content))
            return None
        if not self._keys_are_known(content):
            return None
        ways = [way for way in ("value", "values", "min") if way in content or (way == "min" and "max" in content)]
        if len(ways) != 1:
            what = f"has both {' and '.join(ways)}" if ways else "says no value"
            self._add("", what, "give one of: value, values, min and max")
            return None
        if not self._distribution_fits(content, ways[0]):
            return None
        return self._range(content) if ways[0] == "min" else self._choices(content, ways[0])

    def _not_a_spec(self, content: Json) -> tuple[str, str]:
        key = self.path[-1]
        if content is None:
            return f"{self.field.name}: is empty", f"write {key}: {{value: ...}}"
        if isinstance(content, list):
            return f"{self.field.name}: a list says no values", f"write {key}: {{values: [...]}}"
        return f"{self.field.name}: {shown(content)} stands alone", f"write {key}: {{value: {shown(content)}}}"

    def _add(self, key: str, what: str, fix: str) -> None:
        self.problems.add((*self.path, key) if key else self.path, f"{self.field.name}: {what}", fix)

    def _keys_are_known(self, content: dict[str, Json]) -> bool:
        unknown = [key for key in content if key not in SPEC_KEYS]
        for key in unknown:
            if key in _REFUSED_KEYS:
                self._add(key, f"{key} cannot be searched with", _REFUSED_KEYS[key])
            else:
                self._add(key, f"unknown key '{key}'", nearest(key, SPEC_KEYS))
        return not unknown

    def _distribution_fits(self, content: dict[str, Json], way: str) -> bool:
        name = content.get("distribution")
        if "distribution" not in content:
            return True
        expected = {"value": ("constant",), "values": ("categorical",), "min": tuple(sorted(_RANGES))}[way]
        if name in expected:
            return True
        if name in DISTRIBUTIONS:
            keys = "min and max" if way == "min" else way
            self._add("distribution", f"{name} does not go with {keys}", f"write {' or '.join(expected)}")
        elif name in _REFUSED:
            self._add("distribution", f"{name} is not searched here", _REFUSED[str(name)])
        elif any(part in str(name) for part in _NO_COUNTERPART):
            fix = f"use one of: {', '.join(DISTRIBUTIONS)}"
            self._add("distribution", f"{name} has no counterpart in Optuna", fix)
        else:
            self._add("distribution", f"unknown distribution {shown(name)}", nearest(name, DISTRIBUTIONS))
        return False

    def _choices(self, content: dict[str, Json], way: str) -> Choices | None:
        for key in ("step", "q"):
            if key in content:
                self._add(key, f"{key} goes with min and max", f"remove {key}")
        items = content[way]
        if way == "value":
            constant = self._values({(way,): items})
            return Choices(constant) if constant else None
        if not isinstance(items, list) or not items:
            self._add(way, f"values is {'not a list' if items else 'empty'}", "write values: [a, b]")
            return None
        if self.field.kind == "path":
            self._add(way, "is fixed: it cannot be searched", "write value: and one path")
            return None
        values = self._values({(way, index): item for index, item in enumerate(items)})
        return Choices(values) if values and self._are_different(values) else None

    def _are_different(self, values: tuple[Value, ...]) -> bool:
        repeated = [index for index, value in enumerate(values) if value in values[:index]]
        for index in repeated:
            what = f"{self.field.name}: {shown(values[index])} is listed twice"
            self.problems.add((*self.path, "values", index), what, "keep one")
        return not repeated

    def _values(self, items: Mapping[KeyPath, Json]) -> tuple[Value, ...] | None:
        """The values at some keys, in the parameter's own type; None when one of them does not fit."""
        values = []
        for key, item in items.items():
            try:
                values.append(read_value(self.document, self.field, (*self.path, *key), item))
            except ValueError as error:
                self.problems.add((*self.path, *key), *error.args)
        return tuple(values) if len(values) == len(items) else None

    def _range(self, content: dict[str, Json]) -> Domain | None:
        if self.field.kind not in ("integer", "number"):
            names = [shown(choice).strip("'") for choice in self.field.choices]
            listed = ", ".join(names if 0 < len(names) <= _CHOICES_SHOWN else [*names[:_CHOICES_SHOWN], "..."])
            self._add("min", "has no order, so min and max mean nothing", f"write values: [{listed}]")
            return None
        if missing := [bound for bound in ("min", "max") if bound not in content]:
            self._add("", f"has no {missing[0]}", f"write {missing[0]}: too")
            return None
        bounds = self._values({(bound,): content[bound] for bound in ("min", "max")})
        if bounds is None:
            return None
        low, high = bounds
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        if low > high:
            self._add("min", f"min {low:g} is above max {high:g}", f"write min: {high:g}, max: {low:g}")
            return None
        return self._ordered_range(content, low, high)

    def _ordered_range(self, content: dict[str, Json], low: float, high: float) -> Domain | None:
        name = content.get("distribution")
        is_integer = self.field.kind == "integer"
        if is_integer and name == "uniform":
            self._add("distribution", "uniform draws fractions, and it takes whole numbers", "write int_uniform")
            return None
        if name == "log_uniform_values" and low <= 0:
            fix = "write a small number above 0, or distribution: uniform"
            self._add("min", f"min {low:g} has no logarithm", fix)
            return None
        step = self._step(content, low, high)
        if step == 0:
            return None
        if low == high:
            return Choices((low,))
        is_log = name == "log_uniform_values"
        if isinstance(low, int) and isinstance(high, int):
            if not self._can_be_counted("max", low, high, step or 1):
                return None
            return IntRange(low=low, high=high, step=int(step or 1), is_log=is_log)
        return FloatRange(low=low, high=high, step=step, is_log=is_log)

    def _step(self, content: dict[str, Json], low: float, high: float) -> float | None:
        """The step, None without one, or 0 when there was a problem with it."""
        given = [key for key in ("step", "q") if key in content]
        name = content.get("distribution")
        if not given:
            if name == "int_uniform" and self.field.kind == "number":
                return self._step_of_one(low, high)
            if name != "q_uniform":
                return None
            self._add("distribution", "q_uniform has no step", "write step: (or q:)")
            return 0
        key, step = given[0], content[given[0]]
        if len(given) == 2:
            self._add("q", "step and q are two names of one thing", "keep one")
        elif name == "log_uniform_values":
            self._add(key, "a logarithmic range has no steps", f"remove {key}")
        elif isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step < float("inf"):
            self._add(key, f"{key} {shown(step)} is not a number above 0", "write a number above 0")
        elif self.field.kind == "integer" and step != int(step):
            self._add(key, f"{key} {step:g} is not a whole number", "write a whole number")
        else:
            return float(step) if self._ends_on_step(key, low, high, step) else 0
        return 0

    def _step_of_one(self, low: float, high: float) -> float:
        for key, bound in (("min", low), ("max", high)):
            if bound % 1:
                what = f"int_uniform draws whole numbers, and {key} is {bound:g}"
                self._add(key, what, "write a whole number, or distribution: uniform")
                return 0
        return 1.0 if self._can_be_counted("max", low, high, 1) else 0

    def _can_be_counted(self, key: str, low: float, high: float, step: float) -> bool:
        is_countable = (high - low) / step <= _MOST_POINTS
        if not is_countable:
            self._add(key, f"from {low:g} to {high:g} there are too many values", "narrow the range, or widen the step")
        return is_countable

    def _ends_on_step(self, key: str, low: float, high: float, step: float) -> bool:
        if not self._can_be_counted(key, low, high, step):
            return False
        exact_low, exact_high, exact_step = (Decimal(str(number)) for number in (low, high, step))
        rest = (exact_high - exact_low) % exact_step
        if rest:
            fix = f"write max: {exact_high - rest} or max: {exact_high - rest + exact_step}"
            self._add(key, f"steps of {step:g} from {low:g} never reach max {high:g}", fix)
        return not rest
