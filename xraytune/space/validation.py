"""Validate a part of a file with pydantic; each error becomes a problem at its line, with a fix."""

import re
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from xraytune.base.errors import ConfigError, Problem
from xraytune.space.document import Document, KeyPath
from xraytune.space.fields import PARAMETERS
from xraytune.space.messages import nearest
from xraytune.space.parameters import BLOCKS
from xraytune.space.settings import Settings
from xraytune.space.strict_model import list_fields

T = TypeVar("T")
SPACE_KEYS = ("parameters", "points_to_evaluate")
"""The keys of a space file that are not settings."""
_OTHERS = {
    "backbone": "use a name of torchvision, such as resnet50, or of timm: timm/NAME, or "
    "timm/hf-hub:OWNER/NAME for a model on the Hugging Face Hub that timm can load; for "
    "one of your own, give --extension FILE.py:CLASS",
}
"""The fix for an unknown value that resembles none, where a list would be too long."""
_MORE = dict.fromkeys(
    ("source", "augmentation"), "; for one of your own, give --extension FILE.py:NAME"
)


def validate(
    document: Document,
    model: TypeAdapter[T],
    path: KeyPath,
    value: object,
    *,
    name: str = "",
) -> T:
    """Validate a value at a key path of a document, and return the validated value.

    Args:
        document: The document, which knows the line of each key.
        model: The model of the value.
        path: The key path of the value.
        value: The value as YAML gives it.
        name: The name of the value in messages; by default its dotted name.

    Raises:
        ConfigError: The value is not valid.
    """
    try:
        return model.validate_python(value)
    except ValidationError as error:
        details = error.errors()

    error_at = {}
    for detail in details:
        place = (*path, *detail["loc"])
        if detail["type"] not in ("missing", "extra_forbidden"):
            key_path, _ = document.trace(place)  # the members of a union have one place
            place = max(path, key_path, key=len)
        # The first member of a union is a word such as `auto`, the last one a number.
        is_better = place not in error_at or not isinstance(detail["input"], str)
        is_consequence = detail["type"] == "default_factory_not_called" or (
            detail["type"] == "too_short" and detail["input"]
        )
        if is_better and not is_consequence:
            error_at[place] = detail
    problems = []
    for place, detail in error_at.items():
        dotted = ".".join(key for key in place if isinstance(key, str))
        what, fix = _explain(name or dotted, detail)
        problems.append(Problem(what, document.locate(place), fix))
    raise ConfigError(*problems)


def _explain(name: str, error: ErrorDetails) -> tuple[str, str]:
    kind = error["type"]
    value = error["input"]
    key = name.rpartition(".")[2]
    if kind == "missing":
        option = " or give --data FOLDER" if name.startswith("data") else ""
        return f"{name}: is missing", f"write {key}: ...{option}"
    if kind == "extra_forbidden":
        if name in (*PARAMETERS, *BLOCKS):
            return f"unknown key '{name}'", f"did you mean 'parameters.{name}'?"
        block = name.removesuffix(key)
        names = (*list_fields(Settings), *SPACE_KEYS)
        names_in_block = [known for known in names if known.startswith(block)]
        return f"unknown key '{name}'", nearest(key, names_in_block)
    if kind == "literal_error":
        choices = re.findall(r"[\w.+-]+", error["ctx"]["expected"].replace(" or ", " "))
        fix = nearest(value, choices, _OTHERS.get(key, "")) + _MORE.get(key, "")
        return f"{name}: unknown value {value!r}", fix
    if kind == "string_pattern_mismatch":
        fix = "use up to 64 letters, digits, '.', '_' and '-', starting with a letter or digit"
    elif kind == "model_type":
        fix = "write a mapping, {key: value}"
    elif kind == "path_type":
        fix = "write a path; an unquoted ~ is null in YAML"
    elif kind == "value_error":
        fix = str(error["ctx"]["error"])
    else:
        fix = error["msg"].replace("Input should", "it should")
    return f"{name}: {value!r} is not valid", fix
