"""Trials that a space asks for its values: one of Optuna's in a study that may be moved, and one that has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraytune.config.domains import Choices, Domain, FloatRange, IntRange, Suggester, Value


@dataclass(frozen=True, slots=True)
class PortableTrial:
    """A `Suggester` that has the paths among its choices as the journal has them.

    Attributes:
        trial: Optuna's; it is asked for the stored choices.
        stored: From a parameter's name and choices to the same choices as they are stored, in their order.
    """

    trial: Suggester
    stored: Callable[[str, Sequence[Value]], Sequence[Value]]

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of the choices."""
        stored = self.stored(name, choices)
        return choices[stored.index(self.trial.suggest_categorical(name, stored))]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As Optuna does."""
        return self.trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As Optuna does."""
        return self.trial.suggest_int(name, low, high, step=step, log=log)


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """A `Suggester` that repeats recorded values.

    Attributes:
        values: By parameter. Asking for one that is missing, or outside its domain, raises a ValueError.
    """

    values: Mapping[str, Value]

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """The recorded choice."""
        choice: Value = self._checked(name, Choices(tuple(choices)))
        return choice

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The recorded number."""
        number: float = self._checked(name, FloatRange(low=low, high=high, step=step, is_log=log))
        return number

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The recorded whole number."""
        number: int = self._checked(name, IntRange(low=low, high=high, step=step, is_log=log))
        return number

    def _checked(self, name: str, domain: Domain) -> Any:
        if name not in self.values:
            raise ValueError(f"{name} is missing")
        value = self.values[name]
        if not domain.contains(value):
            raise ValueError(f"{name} is {value}, and not {domain}")
        return value
