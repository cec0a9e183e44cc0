"""What settings are made of: strict and frozen pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Strict, model_validator

from xraytune.space.removed import is_dropped

Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple, which YAML and JSON write as a list."""


class StrictModel(BaseModel):
    """A strict and frozen model: rejects unknown keys, wrong types, NaN and infinity."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class StoredModel(StrictModel):
    """A model of which settings were removed, which studies of earlier versions have stored."""

    prefix: ClassVar[str] = ""
    """What its fields begin with, by their dotted names in `REMOVED`."""

    @model_validator(mode="before")
    @classmethod
    def _drop_removed(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if name in cls.model_fields or not is_dropped(f"{cls.prefix}{name}", value)
        }
