"""What settings are made of: strict and frozen pydantic models, each with the rules that hold among its fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, model_validator
from pydantic_core import PydanticCustomError

from xraytune.space.removed import is_dropped

Refusals: TypeAlias = Iterator[tuple[str, str]]
"""What is wrong, and how to fix it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold among settings and parameters.

    Attributes:
        reads: Their dotted names; a problem is reported at the first one that the user has written.
        check: Gets their values, in this order, and yields what is wrong with them. The value of a
            parameter of a block that is not used is None.
    """

    reads: tuple[str, ...]
    check: Callable[..., Refusals]

    def refusal(self, values: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return what is wrong with these values, and the fix; None if the rule holds."""
        return next(self.check(*(values[name] for name in self.reads)), None)


def reads(*names: str) -> Callable[[Callable[..., Refusals]], Rule]:
    """Make a function the check of a `Rule` that reads these settings and parameters."""
    return lambda check: Rule(names, check)


Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple, which YAML and JSON write as a list."""


class StrictModel(BaseModel):
    """A strict and frozen model: rejects unknown keys, wrong types, NaN, infinity, and values that break its rules."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _keep_rules(self) -> Self:
        for rule in self.rules:
            if refusal := rule.refusal({name: self.at(name) for name in rule.reads}):
                what, fix = refusal
                raise PydanticCustomError(
                    "rule", "{what}; {fix}", {"name": rule.reads[0], "what": what, "fix": fix}
                )
        return self

    def at(self, name: str) -> Any:
        """Return the value of a field by its dotted name; None inside a block that is None."""
        value: Any = self
        for key in name.split("."):
            value = getattr(value, key, None)
        return value


class StoredModel(StrictModel):
    """A model of which settings were removed, which studies of earlier versions have stored."""

    prefix: ClassVar[str] = ""
    """What its fields begin with, by their dotted names in `REMOVED`."""

    @model_validator(mode="before")
    @classmethod
    def _drop_removed(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        architecture = given.get("architecture")
        return {
            name: value
            for name, value in given.items()
            if name in cls.model_fields
            or not is_dropped(f"{cls.prefix}{name}", value, architecture)
        }
