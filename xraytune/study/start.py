"""Start a study, or resume it: only with the same space, images and other inputs.

A resumed study may have other values of settings that change no trial, such as its budget, and
other releases of packages; both are recorded.

The other inputs are extra images, generators and weights. Their content must not change while the
study exists, nor what is known of the images that they were made from. `inputs.json` has the
content of each, by its parameter and its path from the study's folder.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from pydantic import TypeAdapter

from xraytune.base.errors import Problem, StudyError, join_names
from xraytune.base.files import (
    explain_disk_errors,
    new_folder,
    read_json,
    sha256_of,
    with_checksum,
    without_checksum,
    write_json,
    write_text,
)
from xraytune.base.records import Compute, Json
from xraytune.data.changes import RESTORE, images_without_test, require_same_data
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import SplitData, write_prepared
from xraytune.nets.backbones import find_weights
from xraytune.space.encoders import is_model
from xraytune.space.fields import flat_values
from xraytune.space.load import DATA_FILE_KEYS
from xraytune.space.parameters import Parameters
from xraytune.space.paths import PATHS, is_path, relative_path
from xraytune.space.recorded import write_extensions
from xraytune.space.settings import Settings
from xraytune.space.space import Space
from xraytune.space.strict_model import StrictModel
from xraytune.study.folder import StudyFolder, environment, explain_damage, other_releases
from xraytune.study.journal import create_journal
from xraytune.synth.donor import MANIFEST_FILE
from xraytune.synth.generator_inputs import FEATURE_BACKBONE
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.registry import read_input, source_of
from xraytune.synth.sources.source import StudyImages, weights_file_sha256

INPUTS_FILE = "inputs.json"
_CONTENTS = TypeAdapter(dict[str, str])

InputContents: TypeAlias = Mapping[tuple[str, Path], str]
"""The content of each input, by its parameter and path: several may use one folder differently."""
Inputs: TypeAlias = set[tuple[str, str]]
"""Paths of extra images, generators and custom weights, each with the name of its parameter.

Official weights have `OFFICIAL` as the name, and the names of backbone and weights in place of the
path, since their file may be in another folder at a later start.
"""
OFFICIAL = "official weights"


def create_study(
    study_folder: StudyFolder,
    space: Space,
    prepared: SplitData,
    machine: Compute | Mapping[str, Json],
    inputs: InputContents = MappingProxyType({}),
) -> None:
    """Create a study atomically, unless another search has just created it.

    `machine` is what the trials compute on here, or the `environment` of the machine that runs
    them. `inputs` are the contents returned by `read_inputs`.
    """
    record = environment(machine) if isinstance(machine, Compute) else machine
    with new_folder(study_folder.path, is_shared=True) as path:
        write_text(StudyFolder(path).space_path, space.to_yaml(study_folder.path))
        write_prepared(prepared, path / "split.json")
        write_inputs(path, study_folder.path, inputs)
        write_extensions(path, space.extensions(), study_folder.path)
        write_json(path / "environment.json", {**record})
        create_journal(StudyFolder(path).journal_path, space, study_folder.path)


def require_free(study_folder: StudyFolder) -> None:
    """Refuse (StudyError) to create a study in a folder that has files and is not a study."""
    if (
        study_folder.path.exists()
        and any(study_folder.path.iterdir())
        and not study_folder.space_path.exists()
    ):
        raise StudyError(
            "this folder is not empty, and is not a study (study.yaml is missing)",
            study_folder.path,
            "give the study another name (--set name=...), or move the folder away",
        )


def with_recorded_images(study_folder: StudyFolder, space: Space) -> Space:
    """Return a space with the images of its study, if there are none at its own `data.path`.

    Settings that a data file may have given for these images are taken from the study, too, unless
    the space has them. Wherever the images are, so are the classes, whose default may change, and
    the folder of official weights.
    """
    recorded_settings = study_folder.space().settings
    weights_dir = space.settings.weights_dir or recorded_settings.weights_dir
    settings = space.settings.with_values({"weights_dir": weights_dir})
    if settings.data.path.exists():
        data = _complete(settings.data, recorded_settings.data, ("classes",))
        return replace(space, settings=settings.with_values({"data": data}))
    changes = {
        "data": _complete(settings.data, recorded_settings.data, DATA_FILE_KEYS),
        "data.path": recorded_settings.data.path,
        "data.split": _complete(
            settings.data.split, recorded_settings.data.split, ("group_regex", "site")
        ),
    }
    return replace(space, settings=settings.with_values(changes))


def _complete(
    settings: StrictModel, recorded_settings: StrictModel, keys: Iterable[str]
) -> StrictModel:
    """Return settings, with recorded values for the `keys` that are not set."""
    missing_keys = {*keys} - settings.model_fields_set
    return settings.with_values({key: getattr(recorded_settings, key) for key in missing_keys})


def require_same_images(study_folder: StudyFolder, prepared: SplitData) -> SplitData:
    """Return the study's record of its images; raise StudyError if they or the split changed."""
    recorded_images = study_folder.prepared()
    require_same_data(recorded_images, prepared, study_folder.path)
    if recorded_images.fingerprint == prepared.fingerprint:
        return recorded_images
    known_files = {image.file for image in images_without_test(recorded_images)}
    new_files = [
        image.file for image in images_without_test(prepared) if image.file not in known_files
    ]
    changes = "the same ones are on other sides of the split"
    if new_files:
        changes = f"{len(new_files)} new: {join_names(new_files)}"
    raise StudyError(
        f"the images changed since the study began: {changes}", study_folder.path, RESTORE
    )


def continue_under_releases(study_folder: StudyFolder) -> str:
    """Record that other versions train the trials from now on, and return a note; "" if none do.

    Unfinished trials lose their checkpoints, so that none is trained with two versions.
    """
    change = other_releases(study_folder)
    if not change:
        return ""
    with explain_disk_errors(study_folder.path):
        for checkpoint in study_folder.path.glob("trials/*/checkpoint/checkpoint.pt"):
            checkpoint.unlink()
    content = study_folder.environment()
    record = environment(study_folder.compute())
    entry = {"packages": record["packages"], "started": record["started"]}
    content["continued"] = [*content.get("continued", ()), entry]
    write_json(study_folder.path / "environment.json", content)
    return (
        f"the trials of this study were {change}: ended trials keep their values, unfinished ones "
        "start again, and `confirm` trains all replicates with one version"
    )


def inputs_of_space(space: Space) -> Inputs:
    """Return the inputs that the trials of a space can use."""
    return inputs_of_trials(space.extreme_parameters("source", "backbone", "weights", *PATHS))


def inputs_of_trials(trials: Iterable[Parameters]) -> Inputs:
    """Return the inputs of some trials."""
    inputs: Inputs = set()
    for trial in trials:
        values = flat_values(trial).items()
        inputs |= {(name, str(value)) for name, value in values if is_path(name, value)}
        if trial.weights != "none" and not is_path("weights", trial.weights):
            inputs.add((OFFICIAL, f"{trial.backbone} {trial.weights}"))
        if trial.gan and trial.gan.features == "imagenet":
            inputs.add((OFFICIAL, f"{FEATURE_BACKBONE} imagenet"))
    return inputs


def read_inputs(
    inputs: Inputs,
    settings: Settings,
    prepared: SplitData,
    cache: Path,
    *,
    index: ImageIndex | None = None,
    mixes: Iterable[Parameters] = (),
) -> dict[tuple[str, Path], str]:
    """Return the content of each input, by its parameter and path.

    It is the SHA-256 of a file, or a fingerprint of a folder's images.

    The images are decoded, so that broken ones are found before any trial starts. If the study's
    data folder is given as `index`, images of patients in its sealed test folder are refused. There
    must be enough extra images for each of `mixes`.

    Raises:
        ArtifactError: A saved generator is damaged.
        DataError: See `store_folder`; a mix needs more images than the folder has, or a generator
            has not learned a class.
        MachineError: A weights file is missing.
    """
    data = settings.of_size(prepared.image_size_px).data
    study = StudyImages(data, prepared, cache, index)
    contents = {}
    for name, path in sorted(inputs):
        file = Path(path)
        if name == OFFICIAL:
            backbone, weights = path.split(" ")
            weights_file = find_weights(backbone, weights, settings.weights_dir)
            assert weights_file, "these weights have a file"
            contents[name, file] = sha256_of(weights_file)
        elif name == "weights":
            # A model of `train` is a folder, whose manifest stands for it.
            contents[name, file] = weights_file_sha256(
                file / MANIFEST_FILE if is_model(path) else file
            )
        else:
            contents[name, file] = read_input(name, file, study)
    counts: dict[tuple[str, object], list[int] | None] = {}
    for mix in mixes:
        image_key = (mix.source, mix.folder)
        if image_key not in counts:
            counts[image_key] = source_of(mix).count_available(study)
        require_enough(counts[image_key], mix, prepared)
    return contents


def require_same_inputs(
    study_folder: StudyFolder, contents: InputContents, *, is_complete: bool = True
) -> None:
    """Refuse (StudyError) inputs that changed since the study began.

    If `is_complete`, inputs that the study did not record are refused, too.
    """
    with explain_damage(study_folder.path / INPUTS_FILE) as file:
        recorded_contents = _CONTENTS.validate_python(without_checksum(read_json(file))["contents"])
    problems = []
    for (name, path), content in contents.items():
        key = _key(path, study_folder.path)
        of_path = recorded_contents.get(key, "" if is_complete else content)  # an older study's
        if recorded_contents.get(f"{name} {key}", of_path) != content:
            what = "this input changed since the study began"
            fix = "restore it, or start a study with another name"
            problems.append(Problem(what, path, fix))
    if problems:
        raise StudyError(*problems)


def write_inputs(folder: Path, study: Path, contents: InputContents) -> None:
    """Write a study's inputs to `folder`, which becomes the folder `study`."""
    relative_contents = {
        f"{name} {_key(path, study)}": content for (name, path), content in contents.items()
    }
    write_json(folder / INPUTS_FILE, with_checksum({"version": 1, "contents": relative_contents}))


def _key(path: Path, study: Path) -> str:
    """Return the key of an input: a path relative to the study, or the name of weights."""
    return relative_path(path, study) if path.is_absolute() else str(path)
