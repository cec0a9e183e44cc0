"""What a study is given beside its data folder: extra images, and weights of one's own. Its numbers are of these contents.

    inputs.json   the content of each, by its path from the study's folder

A study of an earlier version has no such file; its next start writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from xraytune.config.resolved import is_path, relative_path
from xraytune.config.settings import Parameters, Settings
from xraytune.config.space import Space
from xraytune.data.index import ImageIndex, content_fingerprint
from xraytune.errors import MachineError, Problem, StudyError
from xraytune.files import read_json, sha256_of, write_json
from xraytune.pipeline.extra_folder import store_folder
from xraytune.pipeline.prepare import Prepared
from xraytune.search.study import StudyFolder, damage_explained

INPUTS_FILE = "inputs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Folders of extra images, and files of weights that are no official ones."""

    folders: frozenset[Path]
    weights: frozenset[Path]


def inputs_of_space(space: Space) -> Inputs:
    """What trials of a space can ask for."""
    folders = [path for source, path in space.combinations("source", "folder.path") if source == "folder"]
    weights = [value for (value,) in space.combinations("weights") if value is not None and is_path("weights", value)]
    return Inputs(
        folders=frozenset(Path(str(path)) for path in folders), weights=frozenset(map(Path, map(str, weights)))
    )


def inputs_of_trials(trials: Iterable[Parameters]) -> Inputs:
    """What some trials are trained on."""
    every = list(trials)
    return Inputs(
        folders=frozenset(one.folder.path for one in every if one.folder),
        weights=frozenset(Path(one.weights) for one in every if is_path("weights", one.weights)),
    )


def read_inputs(
    inputs: Inputs, settings: Settings, prepared: Prepared, cache: Path, *, index: ImageIndex | None = None
) -> dict[Path, str]:
    """The content of each: of a file its SHA-256; of a folder a fingerprint of the images that may be trained on.

    These images are decoded here, so that a broken one ends no trial.

    Args:
        inputs: The folders and files.
        settings: The study's.
        prepared: The study's images.
        cache: The artifact cache.
        index: The study's data folder, where patients of its sealed test folder are to be looked for.

    Raises:
        DataError: What `store_folder` refuses.
        MachineError: A file of weights is missing, or the disk is full.
    """
    contents = {}
    for folder in sorted(inputs.folders):
        group_regex = settings.data.split.group_regex
        images, _ = store_folder(folder, prepared, group_regex=group_regex, index=index, cache=cache)
        contents[folder] = content_fingerprint(images)
    for file in sorted(inputs.weights):
        if not file.is_file():
            raise MachineError(Problem("no such file of weights", file, "put it back where it was"))
        contents[file] = sha256_of(file, "file of tensors")
    return contents


def require_same_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Refuse to go on with a study whose extra images or weights changed.

    Raises:
        StudyError: They differ, or the study's record of them is damaged.
    """
    recorded = _recorded(folder)
    names = {path: relative_path(path, folder.path) for path in contents}
    problems = [
        Problem("this changed since the study began", path, "put it back as it was, or start a study of another name")
        for path, content in contents.items()
        if recorded.get(names[path], content) != content
    ]
    if problems:
        raise StudyError(*problems)


def keep_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Write down what a study is given, where its record does not say yet.

    Raises:
        StudyError: It was given something else before, or the record is damaged.
        MachineError: The disk is full.
    """
    require_same_inputs(folder, contents)
    recorded = _recorded(folder)
    known = recorded | {relative_path(path, folder.path): content for path, content in contents.items()}
    if known != recorded:
        write_json(folder.path / INPUTS_FILE, {"version": 1, "contents": known})


def _recorded(folder: StudyFolder) -> dict[str, str]:
    file = folder.path / INPUTS_FILE
    if not file.exists():
        return {}
    with damage_explained(file):
        return TypeAdapter(dict[str, str]).validate_python(read_json(file)["contents"])
