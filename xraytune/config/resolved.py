"""Settings and parameters as content of a file that can be read back, with every path relative to that file's folder.

Nothing stored holds an absolute path, so a study or an exported configuration may move together with its images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraytune.config.domains import Value
from xraytune.config.fields import BLOCKS
from xraytune.config.settings import Settings
from xraytune.records import Json

_WEIGHTS_WITHOUT_FILE = re.compile(r"imagenet|none|IMAGENET1K_\w+")


def is_path(name: str, value: Value) -> bool:
    """Whether this value of a parameter is the path of a file or folder."""
    return isinstance(value, str) and (
        name == "folder.path" or (name == "weights" and not _WEIGHTS_WITHOUT_FILE.fullmatch(value))
    )


def absolute_path(text: str, folder: Path) -> str:
    """A path as a person writes it, from the folder that it is relative to.

    Raises:
        ValueError: There is a NUL in it.
    """
    # Unlike Path.expanduser, it leaves the ~ of somebody unknown as it stands.
    return str((folder / os.path.expanduser(text)).resolve())  # noqa: PTH111


def relative_path(path: Path | str, folder: Path) -> str:
    """The way from the folder to the path, with forward slashes."""
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def relative_value(name: str, value: Json, folder: Path) -> Json:
    """A parameter's value, or its list of values, with paths relative to the folder."""
    if isinstance(value, list):
        return [relative_value(name, item, folder) for item in value]
    if isinstance(value, str) and is_path(name, value):
        return relative_path(value, folder)
    return value


def settings_content(settings: Settings, folder: Path) -> dict[str, Any]:
    """The settings as plain JSON; what is None is left out, for None is the default wherever it can stand."""
    content: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    content["data"]["path"] = relative_path(settings.data.path, folder)
    if settings.weights_dir is not None:
        content["weights_dir"] = relative_path(settings.weights_dir, folder)
    if settings.exported_from is not None:
        content["exported_from"]["study"] = relative_path(settings.exported_from.study, folder)
    return content


def parameters_content(specs: Mapping[str, Mapping[str, Json]], folder: Path) -> dict[str, Json]:
    """The `parameters:` of a file, with blocks, from the specs by dotted name."""
    content: dict[str, Json] = {}
    blocks: dict[str, dict[str, dict[str, Json]]] = {}
    for name, spec in specs.items():
        relative = {key: _relative_key(name, key, value, folder) for key, value in spec.items()}
        block, _, key = name.rpartition(".")
        if block in BLOCKS:
            content.setdefault(block, None)
            blocks.setdefault(block, {})[key] = relative
        else:
            content[name] = relative
    return content | {block: _block_content(inner) for block, inner in blocks.items()}


def _block_content(specs: dict[str, dict[str, Json]]) -> Json:
    """A block; a condition that all its parameters share stands above them."""
    conditions = [spec.get("when") for spec in specs.values()]
    if conditions[0] is None or any(condition != conditions[0] for condition in conditions):
        return {"parameters": {**specs}}
    own = {name: {key: value for key, value in spec.items() if key != "when"} for name, spec in specs.items()}
    return {"when": conditions[0], "parameters": {**own}}


def _relative_key(name: str, key: str, value: Json, folder: Path) -> Json:
    if key == "when" and isinstance(value, dict):
        return {parent: relative_value(parent, accepted, folder) for parent, accepted in value.items()}
    return relative_value(name, value, folder)
