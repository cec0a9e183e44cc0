"""The parameters of a trial as a flat table by dotted name, from the models of settings.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic.fields import FieldInfo

from xraytune.space.domains import Value
from xraytune.space.settings import BLOCKS, Parameters


@cache
def parameter_fields() -> Mapping[str, FieldInfo]:
    """Return every parameter by its dotted name, in the order of the models."""
    fields: dict[str, FieldInfo] = {}
    for name, info in Parameters.model_fields.items():
        if name in BLOCKS:
            inner = BLOCKS[name].model_fields
            fields |= {f"{name}.{key}": field for key, field in inner.items()}
        else:
            fields[name] = info
    return fields


def annotation_of(field: FieldInfo) -> Any:
    """Return the type of a parameter, with its constraints."""
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation


def parameters_from(values: Mapping[str, Value], relative_to: Path | None = None) -> Parameters:
    """Build `Parameters` from values by dotted name; pydantic.ValidationError if they are invalid.

    Paths are absolute, or relative to a folder.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        block, _, key = name.rpartition(".")
        (nested.setdefault(block, {}) if block else nested)[key] = value
    return Parameters.model_validate(nested, context=relative_to)


def flat_values(parameters: Parameters, relative_to: Path | None = None) -> dict[str, Value]:
    """Return every parameter that the trial uses, by dotted name; inverse of `parameters_from`."""
    flat: dict[str, Value] = {}
    for name, value in parameters.model_dump(mode="json", context=relative_to).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in BLOCKS:
            flat[name] = value
    return flat
