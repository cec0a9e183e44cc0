"""Read everything in a space file except the parameters, and explain what `Settings` rejects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xraytune.space.document import KeyPath, Problems, dotted, with_value
from xraytune.space.fields import parameter_fields
from xraytune.space.messages import choices_of, explain, format_value, nearest
from xraytune.space.model import Model
from xraytune.space.paths import absolute_path, is_path
from xraytune.space.settings import BLOCKS, OBJECTIVES, Settings

NON_SETTING_KEYS = ("parameters", "points_to_evaluate")
"""The keys of a space file that are not settings."""

_PATHS: tuple[KeyPath, ...] = (("data", "path"), ("weights_dir",), ("exported_from", "study"))
_MISSING = {
    "name": "write name: my-study",
    "data": "write data: {path: FOLDER}, or give --data FOLDER",
    "data.path": "write path: FOLDER, or give --data FOLDER",
}


def read_settings(problems: Problems) -> Settings | None:
    """Return the settings, with absolute paths; None if there are problems with them."""
    document = problems.document
    content = document.content
    weights = ("quality", "weights")
    for path in (*_PATHS, *((weights,) if is_path("weights", document.get(weights)) else ())):
        if isinstance(text := document.get(path), str):
            content = with_value(content, path, absolute_path(text, document.folder(path)))
    assert isinstance(content, dict)
    try:
        given = {key: value for key, value in content.items() if key not in NON_SETTING_KEYS}
        return Settings.model_validate_json(json.dumps(given))
    except ValidationError as error:
        # `objective` has no default if another setting, on which its default depends, is invalid.
        found = [one for one in error.errors() if one["type"] != "default_factory_not_called"]
        for path, errors in groupby(found, key=_path_of):
            problems.add(path, *_explained(path, list(errors)))
        return None


def dotted_settings(model: type[Model] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield every setting by its dotted name: `budget`, `budget.trials` ..."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        if inner := _model_of(info.annotation):
            yield from dotted_settings(inner, f"{prefix}{name}.")


def _model_of(annotation: Any) -> type[Model] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Model)), None)


def _model_at(path: KeyPath) -> type[Model] | None:
    """Return the model of a block of settings; None at a single setting and below."""
    model: type[Model] | None = Settings
    for key in path:
        model = _model_of(model.model_fields[str(key)].annotation) if model and key in model.model_fields else None
    return model


def _path_of(error: ErrorDetails) -> KeyPath:
    """Return the setting of an error, without what pydantic adds below it, such as the members of a union."""
    location: KeyPath = error["loc"]
    if error["type"] == "rule":
        location += tuple(error["ctx"]["name"].split("."))
    return tuple(key for index, key in enumerate(location) if _model_at(location[:index]))


def _explained(path: KeyPath, errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    name, value, kind = dotted(path), errors[0]["input"], errors[0]["type"]
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "missing":
        return f"{name}: is missing", _MISSING.get(name, f"write {path[-1]}:")
    if path == ("objective", "metric") and kind == "literal_error" and "test" in str(value):
        fix = f"write {' or '.join(names[0] for names in OBJECTIVES.values())}; only evaluate reads the test folder"
        return f"{name}: {format_value(value)} would select the model on test images", fix
    if kind == "model_type" and (model := _model_at(path)):
        fix = f"write {name}: {{{next(iter(model.model_fields))}: ...}}"
        return f"{name}: {format_value(value)} is not a mapping", fix
    if all(error["type"] != "literal_error" for error in errors) or len(errors) == 1:
        return explain(name, errors[0])
    literal, number = sorted(errors, key=lambda error: error["type"] != "literal_error")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return explain(name, number)
    words = " or ".join(f"'{choice}'" for choice in choices_of(literal))
    return f"{name}: {format_value(value)} is neither a number nor {words}", f"write a number or {words}"


def _unknown_key(path: KeyPath) -> tuple[str, str]:
    key = str(path[-1])
    if model := _model_at(path[:-1]) if len(path) > 1 else None:
        return f"{dotted(path[:-1])}: unknown key '{key}'", nearest(key, model.model_fields)
    parameters = (f"parameters.{name}" for name in (*BLOCKS, *parameter_fields()))
    known = [*Settings.model_fields, *NON_SETTING_KEYS, *dotted_settings(), *parameters]
    return f"unknown key '{key}'", nearest(key, known)
