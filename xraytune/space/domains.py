"""The domains of parameters: choices, and ranges of integers or floats with inclusive bounds.

A domain can suggest a value through an Optuna trial, test membership, list its points for a grid, and format itself for a
space file. Nothing here imports Optuna, which is slow to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Protocol, TypeAlias

from xraytune.base.records import Json

Value: TypeAlias = bool | int | float | str | None


class Suggester(Protocol):
    """The methods of `optuna.Trial` that domains call."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value: ...  # noqa: D102

    def suggest_float(  # noqa: D102
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Choices:
    """A set of values. A single one is a constant and not a dimension of the search."""

    values: tuple[Value, ...]
    is_log: ClassVar[bool] = False

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
    """The numbers between low < high: uniform, log-uniform, or in steps. Integers always have a step."""

    low: float
    high: float
    step: float | None = None
    is_log: bool = False
    is_integer: bool = False
    is_open: ClassVar[bool] = True

    def contains(self, value: Value) -> bool:
        """Return whether the value is in the domain, up to rounding."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8 and (isinstance(value, int) or not self.is_integer)

    def suggest(self, trial: Suggester, name: str) -> Value:
        """Return the trial's choice."""
        if not self.is_integer:
            return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.is_log)
        assert self.step is not None, "integers have a step"
        return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step), log=self.is_log)

    def spec(self) -> dict[str, Json]:
        """Return the domain as a space file writes it."""
        stepped: dict[str, Json] = {"step": self.step} if self._has_steps else {}
        name = "log_uniform_values" if self.is_log else "int_uniform" if self.is_integer else "uniform"
        return {"min": self.low, "max": self.high, **stepped, "distribution": name}

    def __str__(self) -> str:
        low, high, step = (
            number if self.is_integer else f"{number:g}" for number in (self.low, self.high, self.step or 0)
        )
        return f"{low} to {high}" + (f" in steps of {step}" if self._has_steps else "")

    @property
    def _has_steps(self) -> bool:
        return self.step is not None and not (self.is_integer and self.step == 1)

    def points(self) -> Iterable[Value] | None:
        """Return all values, in order; None without steps."""
        return None if self.step is None else map(self._point, range(self._count))

    def corners(self, cuts: Iterable[float]) -> tuple[Value, ...]:
        """Return both ends and, with steps, the cuts and their neighbours: values that are a cut, and others."""
        if self.step is None:
            return self.low, self.high
        around = {math.floor((cut - self.low) / self.step) + offset for cut in cuts for offset in (-1, 0, 1)}
        return tuple(self._point(index) for index in sorted(around | {0, self._count - 1}) if 0 <= index < self._count)

    @property
    def _count(self) -> int:
        low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
        return int((high - low) / step) + 1

    def _point(self, index: int) -> float:  # with Decimal, 0.1 + 2 · 0.1 is 0.3
        point = Decimal(str(self.low)) + index * Decimal(str(self.step))
        return int(point) if self.is_integer else float(point)


Domain: TypeAlias = Choices | Range
