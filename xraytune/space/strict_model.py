"""Strict and frozen pydantic models, of which all settings are made."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, Strict
from pydantic.fields import FieldInfo

Item = TypeVar("Item")
Several = Annotated[tuple[Item, ...], Strict(False)]
"""A tuple, which YAML and JSON write as a list."""
OptionalCount = PositiveInt | None
Fraction = Annotated[float, Field(gt=0, lt=1)]
ImageSize = Annotated[int, Field(ge=32, le=1024)]


class StrictModel(BaseModel):
    """A strict and frozen model: rejects unknown keys, wrong types, NaN and infinity."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def with_values(self, changes: Mapping[str, Any]) -> Self:
        """Return a copy with other values, given by dotted name and not validated."""
        copy = self
        for name, value in changes.items():
            block, dot, inner_name = name.partition(".")
            inner = getattr(copy, block).with_values({inner_name: value}) if dot else value
            copy = copy.model_copy(update={block: inner})
        return copy


def list_fields(model: type[StrictModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Return every field of a model, and of the models in it, by dotted name."""
    fields = {}
    for name, field in model.model_fields.items():
        fields[f"{prefix}{name}"] = field
        for member in (field.annotation, *get_args(field.annotation)):
            if isinstance(member, type) and issubclass(member, StrictModel):
                fields |= list_fields(member, f"{prefix}{name}.")
    return fields
