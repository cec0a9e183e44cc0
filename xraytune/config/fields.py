"""The parameters of a trial as a flat table: `gan.steps`, its kind, its bounds, its default.

Read off the models of settings.py, where types and defaults live; `parameters_from` goes the other way, from flat
values to `Parameters`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from xraytune.config.domains import Value
from xraytune.config.messages import explain
from xraytune.config.settings import Model, Parameters
from xraytune.records import Json

BLOCKS = ("gan", "folder")

USED_ONLY_BY: Mapping[str, Callable[[Value], bool]] = {
    **dict.fromkeys(("synthetic_ratio", "balance", "mixing"), lambda source: source != "none"),
    "gan": lambda source: source == "gan",
    "folder": lambda source: source == "folder",
}
"""Whether a source uses a parameter or block; `Parameters` drops it for the others."""

RULES_READ = (
    ("source", "synthetic_ratio", "balance", "mixing", "match_resolution", "folder.path", "batch_size"),
    ("backbone", "weights", "trainable"),
)
"""The parameters that `Parameters` checks against each other, in groups that no rule joins."""

EARLIER_VALUES: Mapping[str, Value] = {"batch_norm": "moving"}
"""How trials ran before these parameters existed. Files that xraytune wrote give every parameter that their version had,
so where one is missing, this value held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterField:
    """One parameter, as settings.py types it.

    Attributes:
        name: Dotted, `gan.steps`.
        kind: `choice` has no order and takes no range; `path` is one place, and not searched.
        choices: Of a `choice`, in the model's order.
        is_required: Whether there is no default.
        default: What holds where it is not given.
        description: A line about it, where its name does not say all.
        adapter: Reads a value.
    """

    name: str
    kind: Literal["choice", "integer", "number", "text", "path"]
    choices: tuple[Value, ...]
    is_required: bool
    default: Value
    description: str
    adapter: TypeAdapter[Any]

    def read(self, value: Json) -> Value:
        """The value in the parameter's own type: 1 is 1.0 where a number may have a fraction.

        Raises:
            ValueError: It does not fit; the two arguments are what is wrong and the fix.
        """
        try:
            read = self.adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            known = self.adapter.json_schema().get("enum", self.choices)  # what is installed here too
            raise ValueError(*explain(self.name, error.errors()[0], known)) from None
        return str(read) if isinstance(read, Path) else read


@cache
def parameter_fields() -> Mapping[str, ParameterField]:
    """Every parameter by its dotted name, in the models' order."""
    return {field.name: field for field in _fields_of(Parameters, "")}


def _fields_of(model: type[Model], prefix: str) -> Iterator[ParameterField]:
    for name, info in model.model_fields.items():
        inner = _without_none(info.annotation)
        if isinstance(inner, type) and issubclass(inner, Model):
            yield from _fields_of(inner, f"{prefix}{name}.")
        else:
            yield _field(prefix + name, info, inner)


def _field(name: str, info: FieldInfo, inner: Any) -> ParameterField:
    annotation: Any = info.annotation
    for constraint in info.metadata:
        annotation = Annotated[annotation, constraint]
    config = ConfigDict(strict=True, allow_inf_nan=False)
    kind, choices = _kind_of(inner)
    return ParameterField(
        name=name,
        kind=kind,
        choices=choices,
        is_required=info.is_required(),
        default=None if info.is_required() else info.default,
        description=info.description or "",
        adapter=TypeAdapter(annotation, config=config),
    )


def _kind_of(inner: Any) -> tuple[Literal["choice", "integer", "number", "text", "path"], tuple[Value, ...]]:
    if inner is bool:
        return "choice", (False, True)
    if get_origin(inner) is Literal:
        return "choice", get_args(inner)
    if inner is int:
        return "integer", ()
    if inner is float:
        return "number", ()
    return ("path" if inner is Path else "text"), ()


def _without_none(annotation: Any) -> Any:
    """`int` of `Annotated[int, ...] | None`."""
    if get_origin(annotation) in {Union, UnionType}:
        (annotation,) = (member for member in get_args(annotation) if member is not NoneType)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def parameters_from(values: Mapping[str, Value]) -> Parameters:
    """`Parameters` of flat values; what is not among them has its default.

    Raises:
        pydantic.ValidationError: The values do not go together.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        block, _, key = name.rpartition(".")
        (nested.setdefault(block, {}) if block else nested)[key] = value
    return Parameters.model_validate_json(json.dumps(nested))


def stored_parameters(values: Mapping[str, Value]) -> Parameters:
    """`Parameters` of flat values that this or an earlier version stored.

    Raises:
        pydantic.ValidationError: The values do not go together.
    """
    return parameters_from({**EARLIER_VALUES, **values})


def flat_values(parameters: Parameters) -> dict[str, Value]:
    """The other way: every parameter that the trial uses, by its dotted name."""
    flat: dict[str, Value] = {}
    for name, value in parameters.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif name not in BLOCKS:
            flat[name] = value
    return flat
