"""Validate a part of a file with a pydantic model: every error becomes a problem at its line, with a fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import TypeAlias, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from xraytune.space.document import Node, Problems, RejectedError
from xraytune.space.messages import format_value, nearest
from xraytune.space.removed import REMOVED_VALUES, explain_removed
from xraytune.space.strict_model import StrictModel

Model = TypeVar("Model", bound=StrictModel)
Path: TypeAlias = tuple[str | int, ...]
_FOLDER_NAME = (
    "cannot be a folder's name on every machine",
    "use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit",
)
_MISSING = {
    "name": "write name: my-study",
    "data": "write data: {path: FOLDER}, or give --data FOLDER",
    "data.path": "write path: FOLDER, or give --data FOLDER",
}


def validate(
    problems: Problems, model: type[Model], node: Node, *, names: Sequence[str] = ()
) -> Model:
    """Return the model of a node; RejectedError if there are problems with it.

    `names` are what a user may mean by an unknown key, besides those of the model.
    """
    try:
        return model.model_validate(node.plain())
    except ValidationError as error:
        details = [detail for detail in error.errors() if not _is_consequence(detail)]

    def locate(detail: ErrorDetails) -> tuple[str, int]:
        """The members of a union have one place."""
        return _name_of(model, _path_of(detail)), id(node.nearest(_path_of(detail)))

    for (name, _), group in groupby(details, key=locate):
        errors = list(group)
        path = _path_of(errors[0])
        if errors[0]["type"] == "extra_forbidden":
            what, fix = _explain_unknown(model, path, names)
        elif errors[0]["type"] == "model_type":
            example = next(iter(blocks_of(model)[path].model_fields))
            what = f"{name}: {format_value(errors[0]['input'])} is not a mapping"
            fix = f"write {{{example}: ...}}"
        else:
            what, fix = explain(name, errors)
        problems.add(node.nearest(path), what, fix)
    raise RejectedError


@cache
def blocks_of(model: type[StrictModel]) -> Mapping[Path, type[StrictModel]]:
    """Return the model of each block of settings by its path; () is the model itself."""
    blocks: dict[Path, type[StrictModel]] = {(): model}
    for name, info in model.model_fields.items():
        for member in (info.annotation, *get_args(info.annotation)):
            if isinstance(member, type) and issubclass(member, StrictModel):
                blocks |= {(name, *path): block for path, block in blocks_of(member).items()}
    return blocks


def setting_names(model: type[StrictModel]) -> list[str]:
    """Return every setting of a model and of its blocks, by its dotted name."""
    return [
        ".".join(map(str, (*path, name)))
        for path, block in blocks_of(model).items()
        for name in block.model_fields
    ]


def _is_consequence(detail: ErrorDetails) -> bool:
    """Return whether an error only says that there are others: no default for `objective`, no valid item of a list."""
    kind = detail["type"]
    return kind == "default_factory_not_called" or (kind == "too_short" and bool(detail["input"]))


def _path_of(detail: ErrorDetails) -> Path:
    return detail["loc"] + tuple(
        detail["ctx"]["name"].split(".") if detail["type"] == "rule" else ()
    )


def _name_of(model: type[StrictModel], path: Path) -> str:
    """Return the dotted name of a setting, without what pydantic adds below it, such as the members of a union."""
    return ".".join(str(key) for index, key in enumerate(path) if path[:index] in blocks_of(model))


def _explain_unknown(model: type[StrictModel], path: Path, names: Sequence[str]) -> tuple[str, str]:
    *block, key = map(str, path)
    removed = explain_removed(".".join((*block, key)))
    if block:
        what = f"{'.'.join(block)}: unknown key '{key}'"
        return what, removed or nearest(key, blocks_of(model)[path[:-1]].model_fields)
    if f"parameters.{key}" in names:
        return f"unknown key '{key}'", f"did you mean 'parameters.{key}'?"
    return f"unknown key '{key}'", removed or nearest(key, [*setting_names(model), *names])


def explain(name: str, errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    """Return what is wrong with the value of a setting or parameter, and the fix.

    Of a union there are several errors; that of its last member is about a number, and the first
    one about a word such as `auto`.
    """
    is_number = len(errors) > 1 and not isinstance(errors[0]["input"], str)
    error = errors[-1] if is_number else errors[0]
    value = error["input"]
    kind = error["type"]
    context = error.get("ctx", {})
    if kind == "rule":
        return context["what"], context["fix"]
    if kind == "missing":
        return f"{name}: is missing", _MISSING.get(name, f"write {name.rpartition('.')[2]}:")
    if value is None:
        return f"{name}: is empty", "give it a value, or leave it out"
    if kind == "literal_error":
        choices = [word for word in re.findall(r"[\w.+-]+", context["expected"]) if word != "or"]
        return f"{name}: unknown value {format_value(value)}", REMOVED_VALUES.get(
            str(value)
        ) or nearest(value, choices)
    if kind == "string_pattern_mismatch":
        what, fix = _FOLDER_NAME
        return f"{name}: {format_value(value)} {what}", fix
    _, _, wanted = error["msg"].partition(" should ")
    return f"{name}: {format_value(value)} is not valid", f"it should {wanted or error['msg']}"
