"""The parameters of a trial as a flat table by dotted name, derived from the models of settings.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic.fields import FieldInfo

from xraytune.space.domains import Value
from xraytune.space.paths import is_path
from xraytune.space.settings import BLOCKS, Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterField:
    """One parameter.

    Attributes:
        annotation: Its type, with constraints.
        has_order: Whether its values are numbers, which can be a range.
        description: "" if the name says it all.
    """

    annotation: Any
    has_order: bool
    is_required: bool
    default: Value
    description: str


@cache
def parameter_fields() -> Mapping[str, ParameterField]:
    """Return every parameter by its dotted name, in the order of the models."""
    fields: dict[str, ParameterField] = {}
    for name, info in Parameters.model_fields.items():
        if name in BLOCKS:
            fields |= {
                f"{name}.{key}": _field_of(inner)
                for key, inner in BLOCKS[name].model_fields.items()
            }
        else:
            fields[name] = _field_of(info)
    return fields


def _field_of(info: FieldInfo) -> ParameterField:
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    is_required = info.is_required()
    return ParameterField(
        annotation=annotation,
        has_order=not {int, float}.isdisjoint((info.annotation, *get_args(info.annotation))),
        is_required=is_required,
        default=None if is_required else info.default,
        description=info.description or "",
    )


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
    """Return every parameter that the trial uses by its dotted name; the inverse of `parameters_from`."""
    flat: dict[str, Value] = {}
    for name, value in parameters.model_dump(mode="json", context=relative_to).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in BLOCKS:
            flat[name] = value
    return flat


def has_path(parameters: Parameters) -> bool:
    """Return whether a value is the path of a file or folder."""
    return any(is_path(name, value) for name, value in flat_values(parameters).items())
