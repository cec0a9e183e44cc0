"""The domains of parameters: choices, and ranges of integers or floats with inclusive bounds.

A domain can suggest a value through an Optuna trial, test membership, list its points for a grid,
and format itself for a space file. Nothing here imports Optuna, which is slow to import.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

from xraytune.base.records import Json

Value: TypeAlias = bool | int | float | str | None


class Suggester(Protocol):
    """The methods of `optuna.Trial` that domains call."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value: ...  # noqa: D102

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...  # noqa: D102

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Choices:
    """A set of values. A single one is a constant and not a dimension of the search."""

    values: tuple[Value, ...]

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return len(self.values) > 1

    def contains(self, value: Value) -> bool:
        """Return whether the value is in the domain."""
        return value in self.values

    def suggest(self, trial: Suggester, name: str) -> Value:
        """Return the trial's choice, without calling the trial for a constant."""
        return trial.suggest_categorical(name, self.values) if self.is_open else self.values[0]

    def points(self) -> tuple[Value, ...]:
        """Return all values."""
        return self.values

    def corners(self, cuts: Iterable[float]) -> tuple[Value, ...]:  # noqa: ARG002 (the domains share this signature)
        """Return all values."""
        return self.values

    def spec(self) -> dict[str, Json]:
        """Return the domain as a space file writes it."""
        return {"values": list(self.values)} if self.is_open else {"value": self.values[0]}

    def __str__(self) -> str:
        words = {"None": "not set", "True": "true", "False": "false"}
        return " or ".join(words.get(str(value), str(value)) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The numbers between low < high: uniform or log-uniform."""

    low: float
    high: float
    is_log: bool = False
    is_integer: bool = False
    is_open: ClassVar[bool] = True

    def contains(self, value: Value) -> bool:
        """Return whether the value is in the domain."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
        ):
            return False
        return isinstance(value, int) or not self.is_integer

    def suggest(self, trial: Suggester, name: str) -> Value:
        """Return the trial's choice."""
        if self.is_integer:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.is_log)
        return trial.suggest_float(name, self.low, self.high, log=self.is_log)

    def spec(self) -> dict[str, Json]:
        """Return the domain as a space file writes it."""
        name = (
            "log_uniform_values" if self.is_log else "int_uniform" if self.is_integer else "uniform"
        )
        return {"min": self.low, "max": self.high, "distribution": name}

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" if self.is_integer else f"{self.low:g} to {self.high:g}"

    def points(self) -> Iterable[Value] | None:
        """Return all integers, in order; None for floats."""
        return range(int(self.low), int(self.high) + 1) if self.is_integer else None

    def corners(self, cuts: Iterable[float]) -> tuple[Value, ...]:
        """Return both ends and, of integers, the cuts and their neighbours: values that are a cut, and others."""
        if not self.is_integer:
            return self.low, self.high
        around = {int(cut) + offset for cut in cuts for offset in (-1, 0, 1)}
        return tuple(
            sorted(
                {
                    int(self.low),
                    int(self.high),
                    *(value for value in around if self.contains(value)),
                }
            )
        )


Domain: TypeAlias = Choices | Range
