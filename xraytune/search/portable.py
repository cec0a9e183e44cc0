"""A trial of Optuna's that has the paths among its choices as the journal has them, so that a study may be moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xraytune.config.domains import Suggester, Value


@dataclass(frozen=True, slots=True)
class PortableTrial:
    """A `Suggester`.

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
