"""What settings are made of: strict and frozen pydantic models, each with the rules that hold among its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold among settings and parameters.

    Attributes:
        reads: Their dotted names; a problem is reported at the first one that the user has written.
        holds: Of their values, in this order; the value of a parameter of a block that is not used is None.
        what: What is wrong. A text is a template: `{lr:g}`, `{data_image_size}`; a function gets the values.
        fix: How to fix it, likewise.
    """

    reads: tuple[str, ...]
    holds: Callable[..., bool]
    what: str | Callable[..., str]
    fix: str | Callable[..., str]

    def refusal(self, values: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return what is wrong with these values, and the fix; None if the rule holds."""
        if self.holds(*(values[name] for name in self.reads)):
            return None
        read = {name.replace(".", "_"): values[name] for name in self.reads}
        what, fix = (
            text.format(**read) if isinstance(text, str) else text(*read.values()) for text in (self.what, self.fix)
        )
        return what, fix


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
                raise PydanticCustomError("rule", "{what}; {fix}", {"name": rule.reads[0], "what": what, "fix": fix})
        return self

    def at(self, name: str) -> Any:
        """Return the value of a field by its dotted name; None inside a block that is None."""
        value: Any = self
        for key in name.split("."):
            value = getattr(value, key, None)
        return value
