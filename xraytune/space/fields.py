"""The parameters of a trial as a flat table by dotted name, derived from the models of settings.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from xraytune.base.records import Json
from xraytune.space.domains import Value
from xraytune.space.messages import explain
from xraytune.space.paths import is_path
from xraytune.space.settings import BLOCKS, Parameters
from xraytune.space.strict_model import StrictModel

ValueKind: TypeAlias = Literal["integer", "number", "other"]
_KINDS: Mapping[Any, ValueKind] = {int: "integer", float: "number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterField:
    """One parameter.

    Attributes:
        name: Dotted, `gan.steps`.
        kind: Only integers and numbers can be a range.
        description: "" if the name says it all.
    """

    name: str
    kind: ValueKind
    is_required: bool
    default: Value
    description: str
    adapter: TypeAdapter[Any]

    def read(self, value: Json) -> Value:
        """Convert a value to the parameter's type, such as 1 to 1.0; ValueError(what is wrong, the fix) if it is invalid."""
        try:
            read = self.adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(*explain(self.name, error.errors()[0])) from None
        return str(read) if isinstance(read, Path) else read


@cache
def parameter_fields() -> Mapping[str, ParameterField]:
    """Return every parameter by its dotted name, in the order of the models."""
    return {field.name: field for field in _fields_of(Parameters, "")}


def _fields_of(model: type[StrictModel], prefix: str) -> Iterator[ParameterField]:
    for name, info in model.model_fields.items():
        inner = _without_none(info.annotation)
        if isinstance(inner, type) and issubclass(inner, StrictModel):
            yield from _fields_of(inner, f"{prefix}{name}.")
            continue
        annotation: Any = info.annotation
        for constraint in info.metadata:
            annotation = Annotated[annotation, constraint]
        yield ParameterField(
            name=prefix + name,
            kind=_KINDS.get(inner, "other"),
            is_required=info.is_required(),
            default=None if info.is_required() else info.default,
            description=info.description or "",
            adapter=TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False)),
        )


def _without_none(annotation: Any) -> Any:
    """Return `int` of `Annotated[int, ...] | None`."""
    if get_origin(annotation) in {Union, UnionType}:
        (annotation,) = (member for member in get_args(annotation) if member is not NoneType)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


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
