"""Paths are absolute in memory, and relative to their folder in files.

So a study can be moved together with its images. Two codecs convert paths. One is pydantic's, for
YAML and JSON files; its context is the folder when it reads or writes a model with a `FilePath` or
`WeightsName` (a `Text` of a space file or an option has its own folder). The other is the journal's
(`study/journal.py`).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo, Strict, ValidationInfo

from xraytune.space.domains import Value

_WEIGHTS_WITHOUT_FILE = re.compile(r"imagenet|hub|none|IMAGENET1K_\w+")
"""The words that `weights` and `gan.features` may have in place of a path."""

PATHS = (
    "folder.path",
    "folder.seen",
    "folder.donor",
    "generator.path",
    "statistics.path",
    "gan.start_from",
    "gan.features",
)
"""The parameters that are paths."""


def is_path(name: str, value: object) -> bool:
    """Return whether this value of a parameter is the path of a file or folder."""
    may_be_path = name in ("weights", *PATHS) and isinstance(value, str)
    return may_be_path and not _WEIGHTS_WITHOUT_FILE.fullmatch(str(value))


def absolute_path(path: Path | str, folder: Path) -> str:
    """Resolve a path that is relative to a folder, or starts with `~`.

    Raises ValueError if the path contains a NUL character.
    """
    # Unlike Path.expanduser, this keeps the ~ of an unknown user.
    return str((folder / os.path.expanduser(path)).resolve())  # noqa: PTH111


def relative_path(path: Path | str, folder: Path) -> str:
    """Return the path relative to a folder, with forward slashes."""
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def relative_value(name: str, value: Value, folder: Path) -> Value:
    """Return the value of a parameter; a path is returned relative to the folder."""
    return relative_path(str(value), folder) if is_path(name, value) else value


def _read_path(path: Any, info: ValidationInfo) -> Any:
    folder = getattr(path, "folder", info.context)
    return path if folder is None or not isinstance(path, str) else absolute_path(path, folder)


def _read_weights(weights: Any, info: ValidationInfo) -> Any:
    return _read_path(weights, info) if is_path("weights", weights) else weights


def _write(path: Path | str, info: SerializationInfo) -> str:
    is_name = isinstance(path, str) and not is_path("weights", path)
    return str(path) if info.context is None or is_name else relative_path(path, info.context)


FilePath = Annotated[
    Path, Strict(False), BeforeValidator(_read_path), PlainSerializer(_write, when_used="json")
]
WeightsName = Annotated[
    str, BeforeValidator(_read_weights), PlainSerializer(_write, when_used="json")
]
