"""A study's inputs other than its data folder: extra images, generators and weights.

The content of an input must not change while the study exists, nor what is known of the images that
it was made from. `inputs.json` has the content of each input, by its path from the study's folder.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from pydantic import TypeAdapter

from xraytune.base.errors import Problem, StudyError
from xraytune.base.files import read_json, sha256_of, with_checksum, without_checksum, write_json
from xraytune.data.images import ImageIndex
from xraytune.data.prepare import SplitData
from xraytune.nets.backbones import find_weights
from xraytune.space.encoders import is_model
from xraytune.space.fields import flat_values
from xraytune.space.paths import PATHS, is_path, relative_path
from xraytune.space.settings import Parameters, Settings
from xraytune.space.space import Space
from xraytune.study.folder import StudyFolder, damage_explained
from xraytune.synth.donor import MANIFEST_FILE
from xraytune.synth.generator_inputs import FEATURE_BACKBONE
from xraytune.synth.mix import require_enough
from xraytune.synth.sources.source import StudyImages, file_content
from xraytune.synth.sources.which import SOURCE_CLASSES, source_of

INPUTS_FILE = "inputs.json"
_CONTENTS = TypeAdapter(dict[str, str])

Inputs: TypeAlias = set[tuple[str, str]]
"""Paths of extra images, generators and custom weights, each with the name of its parameter.

Official weights have `OFFICIAL` as the name, and the names of backbone and weights in place of the
path, since their file may be in another folder at a later start.
"""
OFFICIAL = "official weights"


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
) -> dict[Path, str]:
    """Return the content of each input: the SHA-256 of a file, a fingerprint of a folder's images.

    The images are decoded, so that broken ones are found before any trial starts. If the study's
    data folder is given as `index`, images of patients in its sealed test folder are refused. Of
    `mixes`, it is checked that there are enough extra images.

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
        source, _, setting = name.partition(".")
        if name == OFFICIAL:
            backbone, weights = path.split(" ")
            official = find_weights(backbone, weights, settings.weights_dir)
            assert official, "these weights have a file"
            contents[file] = sha256_of(official)
        elif name == "weights":
            contents[file] = weights_content(path)
        else:
            contents[file] = SOURCE_CLASSES[source].read_input(setting, file, study)
    available: dict[tuple[str, object], list[int] | None] = {}
    for mix in mixes:
        images = (mix.source, getattr(mix, mix.source, None))
        if images not in available:
            available[images] = source_of(mix).count_available(study)
        require_enough(available[images], mix, prepared)
    return contents


def weights_content(weights: str) -> str:
    """Return the SHA-256 of a file of weights or, for a folder from `train`, of its manifest.

    Raises MachineError if the file is missing.
    """
    path = Path(weights)
    return file_content(path / MANIFEST_FILE if is_model(weights) else path)


def require_same_inputs(
    folder: StudyFolder, contents: Mapping[Path, str], *, is_complete: bool = True
) -> None:
    """Refuse (StudyError) inputs that changed since the study began.

    If `is_complete`, inputs that the study did not record are refused, too.
    """
    with damage_explained(folder.path / INPUTS_FILE) as file:
        recorded = _CONTENTS.validate_python(without_checksum(read_json(file))["contents"])
    problems = []
    for path, content in contents.items():
        before = recorded.get(_key(path, folder.path), "" if is_complete else content)
        if before != content:
            what = "this input changed since the study began"
            fix = "restore it, or start a study with another name"
            problems.append(Problem(what, path, fix))
    if problems:
        raise StudyError(*problems)


def write_inputs(folder: Path, study: Path, contents: Mapping[Path, str]) -> None:
    """Write a study's inputs to `folder`, which becomes the folder `study`."""
    relative = {_key(path, study): content for path, content in contents.items()}
    write_json(folder / INPUTS_FILE, with_checksum({"version": 2, "contents": relative}))


def _key(path: Path, study: Path) -> str:
    """Return the key of an input: a path relative to the study, or the name of weights."""
    return relative_path(path, study) if path.is_absolute() else str(path)
