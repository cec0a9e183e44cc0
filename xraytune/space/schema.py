"""The JSON Schema of space files, with which editors complete names and underline errors.

Derived from the models of settings.py. It describes the structure of a file and the bounds of values, not which values are
compatible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xraytune.base.records import Json
from xraytune.space.fields import ParameterField, parameter_fields
from xraytune.space.grammar import DISTRIBUTIONS
from xraytune.space.settings import BLOCKS, Settings

Schema = dict[str, Any]


def space_schema() -> dict[str, Json]:
    """Return the schema (draft 2020-12)."""
    schema: Schema = Settings.model_json_schema()
    schema["required"] = ["name"]  # the images may come with --data
    del schema["$defs"]["DataSettings"]["required"]
    fields = parameter_fields()
    schema["$defs"]["values"] = {name: field.adapter.json_schema() for name, field in fields.items()}
    values: dict[str, Schema] = {name: {"$ref": f"#/$defs/values/{name}"} for name in fields}
    schema["$defs"]["when"] = {
        "description": "The parameter is active only where all of these hold.",
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {
            name: {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]} for name, value in values.items()
        },
    }
    schema["$defs"]["specs"] = {name: _spec(field, values[name]) for name, field in fields.items()}
    specs: dict[str, Schema] = {name: {"$ref": f"#/$defs/specs/{name}"} for name in fields}
    when = {"$ref": "#/$defs/when"}
    blocks = {
        block: {**_object({"when": when, "parameters": _object(_inside(block, specs))}), "required": ["parameters"]}
        for block in BLOCKS
    }
    schema["properties"]["parameters"] = {
        "description": "The search space: the values or the range of each parameter.",
        **_object({**specs, **blocks}),
    }
    schema["properties"]["points_to_evaluate"] = {
        "description": "Points to evaluate first.",
        "type": "array",
        "items": _object({**values, **{block: _object(_inside(block, values)) for block in BLOCKS}}),
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A space file of xraytune"}


def _object(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": dict(properties)}


def _inside(block: str, named: Mapping[str, Schema]) -> dict[str, Schema]:
    return {name.removeprefix(f"{block}."): schema for name, schema in named.items() if name.startswith(f"{block}.")}


def _spec(field: ParameterField, value: Schema) -> Schema:
    keys: dict[str, Schema] = {
        "value": value,
        "values": {"type": "array", "items": value, "minItems": 1, "uniqueItems": True},
        "when": {"$ref": "#/$defs/when"},
    }
    ways = [{"required": ["value"]}, {"required": ["values"]}]
    if field.kind in ("integer", "number"):
        keys |= {"min": value, "max": value, "distribution": {"enum": list(DISTRIBUTIONS)}}
        ways.append({"required": ["min", "max"]})
    about = {"description": field.description} if field.description else {}
    default: Schema = {} if field.is_required else {"default": {"value": field.default}}
    return {**about, **_object(keys), "oneOf": ways, **default}
