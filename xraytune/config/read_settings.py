"""Reads everything in a space file but its parameters, and says in plain words what `Settings` refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xraytune.config.document import Document, KeyPath, Problems, dotted
from xraytune.config.fields import parameter_fields
from xraytune.config.messages import explain, nearest, shown
from xraytune.config.resolved import absolute_path
from xraytune.config.settings import OBJECTIVE_METRIC, Model, Settings

BESIDE_SETTINGS = ("parameters", "points_to_evaluate")
PATHS: tuple[tuple[str, ...], ...] = (("data", "path"), ("weights_dir",), ("exported_from", "study"))

_SWEEP_KEYS = {
    "method": "write sampler: {name: tpe}",
    "metric": f"write objective: {{metric: {OBJECTIVE_METRIC}}}",
    "early_terminate": "write scheduler: {name: asha}",
    "run_cap": "write budget: {trials: 60}",
    "program": "remove it: xraytune is the program",
    "command": "remove it: xraytune is the program",
    "project": "write tracking: {wandb: {project: my-project}}",
    "entity": "remove it: the W&B client knows it",
}
"""What a W&B sweep has beside its parameters, and where it is said here."""

_MISSING = {
    "name": "write name: my-study",
    "data": "write data: {path: FOLDER}, or give --data FOLDER",
    "data.path": "write path: FOLDER, or give --data FOLDER",
}


def read_settings(document: Document, problems: Problems) -> Settings | None:
    """The settings, with absolute paths; None when there was a problem with them."""
    assert isinstance(document.content, dict)
    content: dict[str, Any] = copy.deepcopy(document.content)
    for key in BESIDE_SETTINGS:
        content.pop(key, None)
    for keys in PATHS:
        holder = content.get(keys[0]) if len(keys) == 2 else content
        if isinstance(holder, dict) and isinstance(holder.get(keys[-1]), str):
            holder[keys[-1]] = absolute_path(holder[keys[-1]], document.folder(keys))
    try:
        return Settings.model_validate_json(json.dumps(content))
    except ValidationError as error:
        for path, errors in groupby(error.errors(), key=lambda one: _key_path(one["loc"])):
            problems.add(path, *_explained(path, list(errors)))
        return None


def dotted_settings(model: type[Model] = Settings, prefix: str = "") -> Iterator[str]:
    """Every setting by its dotted name: `budget`, `budget.trials` ..., in the models' order."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        if inner := _model_of(info.annotation):
            yield from dotted_settings(inner, f"{prefix}{name}.")


def _models(path: KeyPath) -> Iterator[type[Model] | None]:
    """The model that holds each key of a path; None below a plain value, where pydantic names members of a union."""
    model: type[Model] | None = Settings
    for key in path:
        yield model
        model = _model_of(model.model_fields[str(key)].annotation) if model and key in model.model_fields else None


def _model_of(annotation: Any) -> type[Model] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, Model)), None)


def _key_path(location: KeyPath) -> KeyPath:
    return tuple(key for key, model in zip(location, _models(location), strict=True) if model)


def _explained(path: KeyPath, errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    name, value, kinds = dotted(path), errors[0]["input"], {error["type"] for error in errors}
    if kinds == {"extra_forbidden"}:
        return _unknown_key(path)
    if kinds == {"missing"}:
        return f"{name}: is missing", _MISSING.get(name, f"write {path[-1]}:")
    if path == ("objective", "metric") and "test" in str(value):
        fix = f"write {OBJECTIVE_METRIC}; only evaluate opens the test folder"
        return f"{name}: {shown(value)} would choose the model by its test images", fix
    if kinds == {"model_type"}:
        *_, holder = _models((*path, ""))
        example = next(iter(holder.model_fields)) if holder else "key"
        return f"{name}: {shown(value)} is not a mapping", f"write {name}: {{{example}: ...}}"
    choices = _choices(path)
    if len(errors) == 1:
        return explain(name, errors[0], choices)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return explain(name, next(error for error in errors if error["type"] != "literal_error"))
    words = " or ".join(f"'{choice}'" for choice in choices)
    return f"{name}: {shown(value)} is neither a number nor {words}", f"write a number or {words}"


def _choices(path: KeyPath) -> tuple[Any, ...]:
    *_, holder = _models(path) if path else [None]
    annotation = holder.model_fields[str(path[-1])].annotation if holder else None
    literal = next((one for one in (annotation, *get_args(annotation)) if get_origin(one) is Literal), None)
    return get_args(literal)


def _unknown_key(path: KeyPath) -> tuple[str, str]:
    key, holder = str(path[-1]), (list(_models(path))[-1] or Settings)
    if len(path) > 1:
        return f"{dotted(path[:-1])}: unknown key '{key}'", nearest(key, holder.model_fields)
    if key in parameter_fields() or key in ("gan", "folder"):
        return f"'{key}' is a parameter", "write it under parameters:"
    inner = [name.removesuffix(f".{key}") for name in dotted_settings() if name.endswith(f".{key}")]
    fix = _SWEEP_KEYS.get(key) or (f"write it under {inner[0]}:" if inner else "")
    return f"unknown key '{key}'", fix or nearest(key, [*Settings.model_fields, *BESIDE_SETTINGS])
