"""The parameters of a trial as a flat table by dotted name, from the models of settings.py."""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from xraytune.space.domains import Value
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.parameters import BLOCKS, Parameters
from xraytune.space.strict_model import list_fields

PARAMETERS: Mapping[str, FieldInfo] = ChainMap(
    EXTENSIONS.parameters,
    {name: field for name, field in list_fields(Parameters).items() if name not in BLOCKS},
)
"""Every parameter by its dotted name, in the order of the models; those of extensions are last."""


def flatten_blocks(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with the values of blocks under dotted names, without blocks that are None."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif value is not None or name not in BLOCKS:
            flat[name] = value
    return flat


def parameters_from(values: Mapping[str, Value], relative_to: Path | None = None) -> Parameters:
    """Build `Parameters` from values by dotted name; raise ValidationError if they are invalid.

    The codec of a file gives the folder that its paths are relative to.
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        block, dot, key = name.partition(".")
        if dot:
            nested.setdefault(block, {})[key] = value
        else:
            nested[name] = value
    return Parameters.model_validate(nested, context=relative_to)


def flat_values(parameters: Parameters, relative_to: Path | None = None) -> dict[str, Value]:
    """Return every parameter that the trial uses, by dotted name; inverse of `parameters_from`."""
    return flatten_blocks(parameters.model_dump(mode="json", context=relative_to))
