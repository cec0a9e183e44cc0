"""The domains of parameters: choices, and ranges of integers or floats with inclusive bounds.

Nothing here imports Optuna, which is slow to import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from xraytune.base.records import Json

Value: TypeAlias = bool | int | float | str | None
_FEW = 20
"""An integer range with at most as many values is checked at all of them."""


@dataclass(frozen=True, slots=True)
class Choices:
    """A set of values. A single one is a constant and not a dimension of the search."""

    values: tuple[Value, ...]

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return len(self.values) > 1

    @property
    def points(self) -> Sequence[Value]:
        """All values."""
        return self.values

    corners = points

    def contains(self, value: Value) -> bool:
        """Return whether the value is in the domain."""
        return value in self.values

    def suggest(self, trial: Any, name: str) -> Value:
        """Return the choice of an Optuna trial, without calling it for a constant."""
        value = self.values[0]
        if self.is_open:
            value = trial.suggest_categorical(name, self.values)
        return value

    def spec(self) -> dict[str, Json]:
        """Return the domain as a space file writes it."""
        return {"values": list(self.values)} if self.is_open else {"value": self.values[0]}

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers between low < high: uniform or log-uniform."""

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False
    is_open: ClassVar[bool] = True

    @property
    def points(self) -> Sequence[Value] | None:
        """All integers, in order; None for floats."""
        return range(int(self.low), int(self.high) + 1) if self.is_integer else None

    @property
    def corners(self) -> Sequence[Value]:
        """Values that stand for all of them: both ends, or a few integers."""
        points = self.points
        return points if points and len(points) <= _FEW else (self.low, self.high)

    def contains(self, value: Value) -> bool:
        """Return whether the value is in the domain."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def suggest(self, trial: Any, name: str) -> Value:
        """Return the choice of an Optuna trial."""
        suggest = trial.suggest_int if self.is_integer else trial.suggest_float
        value: float = suggest(name, self.low, self.high, log=self.is_log)
        return value

    def spec(self) -> dict[str, Json]:
        """Return the domain as a space file writes it."""
        plain = "int_uniform" if self.is_integer else "uniform"
        name = "log_uniform_values" if self.is_log else plain
        return {"min": self.low, "max": self.high, "distribution": name}

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


Domain: TypeAlias = Choices | Range
