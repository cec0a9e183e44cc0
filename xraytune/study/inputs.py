"""A study's inputs other than its data folder: extra images and custom weights. Their contents must not change.

inputs.json   the content of each, by its path from the study's folder
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from xraytune.base.errors import MachineError, Problem, StudyError
from xraytune.base.files import read_json, sha256_of, write_json
from xraytune.data.index import ImageIndex, content_fingerprint
from xraytune.data.prepare import Prepared
from xraytune.space.paths import is_path, relative_path
from xraytune.space.settings import Parameters, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.synth.extra_folder import store_folder

INPUTS_FILE = "inputs.json"


Inputs: TypeAlias = tuple[set[Path], set[Path]]
"""Folders of extra images, and custom weights files."""


def inputs_of_space(space: Space) -> Inputs:
    """Return the inputs that trials of a space can use."""
    folders = [path for source, path in space.combinations("source", "folder.path") if source == "folder"]
    weights = [value for (value,) in space.combinations("weights") if value is not None and is_path("weights", value)]
    return {Path(str(path)) for path in folders}, {Path(str(value)) for value in weights}


def inputs_of_trials(trials: Iterable[Parameters]) -> Inputs:
    """Return the inputs of some trials."""
    folders, weights = set[Path](), set[Path]()
    for parameters in trials:
        if parameters.folder:
            folders.add(parameters.folder.path)
        if is_path("weights", parameters.weights):
            weights.add(Path(parameters.weights))
    return folders, weights


def read_inputs(
    inputs: Inputs, settings: Settings, prepared: Prepared, cache: Path, *, index: ImageIndex | None = None
) -> dict[Path, str]:
    """Return the content of each input: the SHA-256 of a file, a fingerprint of the usable images of a folder.

    The images are decoded, so that broken ones are found before any trial starts. If the study's data folder is given as
    `index`, patients of its sealed test folder are refused among them.

    Raises:
        DataError: See `store_folder`.
        MachineError: A weights file is missing.
    """
    contents = {}
    folders, weights = inputs
    for folder in sorted(folders):
        images, _ = store_folder(folder, prepared, settings.data, index=index, cache=cache)
        contents[folder] = content_fingerprint(images)
    for file in sorted(weights):
        if not file.is_file():
            raise MachineError(Problem("no such weights file", file, "restore it"))
        contents[file] = sha256_of(file, "file of tensors")
    return contents


def require_same_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Refuse (StudyError) inputs that changed since the study began."""
    recorded = _recorded(folder)
    problems = [
        Problem("this input changed since the study began", path, "restore it, or start a study with another name")
        for path, content in contents.items()
        if recorded.get(relative_path(path, folder.path), content) != content
    ]
    if problems:
        raise StudyError(*problems)


def record_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Record a study's inputs, if they are the same as before."""
    require_same_inputs(folder, contents)
    if contents:
        new = {relative_path(path, folder.path): content for path, content in contents.items()}
        write_json(folder.path / INPUTS_FILE, {"version": 1, "contents": _recorded(folder) | new})


def _recorded(folder: StudyFolder) -> dict[str, str]:
    with damage_explained(folder.path / INPUTS_FILE) as file:
        return TypeAdapter(dict[str, str]).validate_python(read_json(file)["contents"]) if file.exists() else {}
