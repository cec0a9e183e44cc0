"""A study's inputs other than its data folder: extra images and custom weights. Their contents must not change.

inputs.json   the content of each, by its path from the study's folder
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from xraytune.base.errors import DataError, MachineError, Problem, StudyError, join_names
from xraytune.base.files import read_json, sha256_of, write_json
from xraytune.data.index import ImageIndex, content_fingerprint
from xraytune.data.prepare import Prepared
from xraytune.space.fields import flat_values
from xraytune.space.paths import PATHS, is_path, relative_path
from xraytune.space.settings import Parameters, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.synth.extra_folder import store_folder
from xraytune.synth.saved_generator import GENERATOR_FILE, read_generator
from xraytune.trial.mix import require_enough

INPUTS_FILE = "inputs.json"

Inputs: TypeAlias = set[tuple[str, str]]
"""Paths of extra images, generators and custom weights, each with the name of its parameter."""


def inputs_of_space(space: Space) -> Inputs:
    """Return the inputs that trials of a space can use."""
    values = {
        (name, value) for name in (*PATHS, "weights") for (value,) in space.combinations(name)
    }
    return {(name, str(value)) for name, value in values if is_path(name, value)}


def inputs_of_trials(trials: Iterable[Parameters]) -> Inputs:
    """Return the inputs of some trials."""
    values = {value for parameters in trials for value in flat_values(parameters).items()}
    return {(name, str(value)) for name, value in values if is_path(name, value)}


def read_inputs(
    inputs: Inputs,
    settings: Settings,
    prepared: Prepared,
    cache: Path,
    *,
    index: ImageIndex | None = None,
    mixes: Iterable[Parameters] = (),
) -> dict[Path, str]:
    """Return the content of each input: the SHA-256 of a file, a fingerprint of the usable images of a folder.

    The images are decoded, so that broken ones are found before any trial starts. If the study's
    data folder is given as `index`, patients of its sealed test folder are refused among them.
    `mixes` may be of the folder of extra images.

    Raises:
        ArtifactError: A saved generator is damaged.
        DataError: See `store_folder`; a mix needs more images than the folder has, or a generator
        has not learned a class.
        MachineError: A weights file is missing.
    """
    contents = {}
    for name, path in sorted(inputs):
        file = Path(path)
        if name == "folder.path":
            images, _ = store_folder(file, prepared, settings.data, index=index, cache=cache)
            contents[file] = content_fingerprint(images)
            for mix in mixes:
                if mix.folder and mix.folder.path == file:
                    require_enough([image.label for image in images], mix, prepared)
        elif name == "folder.seen":
            continue  # the split depends on it
        elif name not in ("weights", "gan.features"):
            contents[file] = usable_generator(file, prepared, is_start=name != "generator.path")
        elif file.is_file():
            contents[file] = sha256_of(file)
        else:
            raise MachineError(Problem("no such weights file", file, "restore it"))
    return contents


def require_same_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Refuse (StudyError) inputs that changed since the study began."""
    recorded = _recorded(folder)
    problems = [
        Problem(
            "this input changed since the study began",
            path,
            "restore it, or start a study with another name",
        )
        for path, content in contents.items()
        if recorded.get(relative_path(path, folder.path), content) != content
    ]
    if problems:
        raise StudyError(*problems)


def usable_generator(folder: Path, prepared: Prepared, *, is_start: bool) -> str:
    """Return the SHA-256 of the record of a saved generator; raise DataError if it cannot make the study's images.

    A network that training starts from must have learnt the same classes or findings in the same
    order.
    """
    saved, names = read_generator(folder), prepared.outputs
    known = saved.findings or (*saved.class_counts,)
    is_alike = bool(saved.findings) == bool(prepared.findings)
    missing = [name for name in names if not (is_alike and name in known)]
    if missing or prepared.has_masks != (saved.masks is not None):
        lack = missing[0] if missing else "masks" if prepared.has_masks else "images without masks"
        what = f"this GAN makes images of {join_names(known)}, but not {lack}"
        raise DataError(
            Problem(what, folder, "train one on images that are labelled like the study's")
        )
    if is_start and known != names:
        what = f"training on {join_names(names)} cannot start from a GAN of {join_names(known)}"
        raise DataError(Problem(what, folder, "use one of the same, in the same order"))
    return sha256_of(folder / GENERATOR_FILE)


def record_inputs(folder: StudyFolder, contents: Mapping[Path, str]) -> None:
    """Record a study's inputs, if they are the same as before."""
    require_same_inputs(folder, contents)
    if contents:
        new = {relative_path(path, folder.path): content for path, content in contents.items()}
        write_json(folder.path / INPUTS_FILE, {"version": 1, "contents": _recorded(folder) | new})


def _recorded(folder: StudyFolder) -> dict[str, str]:
    with damage_explained(folder.path / INPUTS_FILE) as file:
        return (
            TypeAdapter(dict[str, str]).validate_python(read_json(file)["contents"])
            if file.exists()
            else {}
        )
