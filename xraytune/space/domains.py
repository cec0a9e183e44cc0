"""One parameter of a space: its values, and where it is active.

Nothing here imports Optuna, which is slow to import.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeAlias

from xraytune.base.records import Json, frozen

Value: TypeAlias = bool | int | float | str | None
Point: TypeAlias = dict[str, Value]
"""Values of the active parameters by dotted name."""
Conditions: TypeAlias = Mapping[str, tuple[Value, ...]]
"""A parameter is active where each of these parameters is active and has one of these values."""
_FEW = 20
"""An integer range with at most this many values is checked at all of them."""


def with_parents(names: Iterable[str], parents: Mapping[str, Iterable[str]]) -> set[str]:
    """Return parameters together with all parameters that they depend on, directly or not."""
    family = set()
    pending = [*names]
    while pending:
        name = pending.pop()
        if name not in family:
            family.add(name)
            pending += parents.get(name, ())
    return family


@frozen
class ParameterSpec:
    """One parameter of a space.

    Attributes:
        name: The dotted name of the parameter.
        values: The values, or both ends of a range, inclusive. A parameter with a single value is a
            constant, and not a dimension of the search.
        distribution: `uniform`, `int_uniform` or `log_uniform_values` for a range; otherwise None.
        when: The conditions on which the parameter is active.
    """

    name: str
    values: tuple[Any, ...]
    distribution: str | None = None
    when: Conditions = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return len(self.values) > 1

    @property
    def is_integer(self) -> bool:
        """Whether a range has integers only."""
        return isinstance(self.values[0], int)

    @property
    def points(self) -> Sequence[Value] | None:
        """All values, in order; None for a range of floats, which has too many."""
        if self.distribution is None:
            return self.values
        low, high = self.values
        return range(low, high + 1) if self.is_integer else None

    def corners(self, cuts: Sequence[Value]) -> Sequence[Value]:
        """Return values that stand for all values.

        A range is represented by both ends. A range of many integers is also represented by the
        neighbours of its ends, so that there are odd and even numbers, and by the integers at
        `cuts`, where conditions on the parameter change.
        """
        points = self.points
        if points is None:
            return self.values
        if len(points) <= _FEW:
            return points
        low, high = self.values
        corners = {low, low + 1, high - 1, high}
        for cut in cuts:
            if isinstance(cut, int):
                corners |= {value for value in (cut - 1, cut, cut + 1) if self.contains(value)}
        return sorted(corners)

    def contains(self, value: Value) -> bool:
        """Return whether a value is one of the parameter's values."""
        if self.distribution is None:
            return value in self.values
        low, high = self.values
        return isinstance(value, int | float) and low <= value <= high

    def is_active_at(self, point: Point) -> bool:
        """Return whether the parameter is active at a point with the values of all its parents."""
        return all(
            parent in point and point[parent] in accepted for parent, accepted in self.when.items()
        )

    def suggest(self, trial: Any) -> Value:
        """Return the choice of an Optuna trial, without calling it for a constant."""
        value: Value = self.values[0]
        if self.distribution is not None:
            suggest = trial.suggest_int if self.is_integer else trial.suggest_float
            is_log = self.distribution == "log_uniform_values"
            value = suggest(self.name, *self.values, log=is_log)
        elif self.is_open:
            value = trial.suggest_categorical(self.name, self.values)
        return value

    def to_json(self) -> dict[str, Json]:
        """Return the parameter as a space file writes it."""
        content: dict[str, Json] = {"value": self.values[0]}
        if self.distribution is not None:
            low, high = self.values
            content = {"min": low, "max": high, "distribution": self.distribution}
        elif self.is_open:
            content = {"values": [*self.values]}
        if self.when:
            content["when"] = {
                parent: accepted[0] if len(accepted) == 1 else [*accepted]
                for parent, accepted in sorted(self.when.items())
            }
        return content

    def __str__(self) -> str:
        """Return the values in words."""
        return (" to " if self.distribution else " or ").join(map(str, self.values))
