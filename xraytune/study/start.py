"""Start a study, or resume it: only with the same space and images.

A resumed study may have other values of settings that change no trial, such as its budget, and
other releases of packages; both are recorded.
"""

import platform
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from xraytune.base.errors import StudyError, join_names
from xraytune.base.files import (
    explain_disk_errors,
    new_folder,
    write_json,
    write_text,
)
from xraytune.base.records import Compute, Json
from xraytune.data.changes import RESTORE, all_images, require_same_data
from xraytune.data.prepare import SplitData, write_prepared
from xraytune.space.load import DATA_FILE_KEYS
from xraytune.space.space import Space
from xraytune.space.strict_model import StrictModel
from xraytune.study.folder import StudyFolder, other_releases
from xraytune.study.journal import create_journal

_PACKAGES = ("xraytune", "torch", "torchvision", "ray", "optuna", "numpy", "pillow", "scikit-learn")


def create_study(
    folder: StudyFolder,
    space: Space,
    prepared: SplitData,
    where: Compute | Mapping[str, Json],
    inputs: Mapping[Path, str] = MappingProxyType({}),
) -> None:
    """Create a study atomically, unless another search has just created it.

    `where` is what the trials compute on here, or the `environment` of the machine that runs them.
    `inputs` are the contents returned by `read_inputs`.
    """
    from xraytune.study.inputs import write_inputs  # imports torch, which Ray's process avoids

    machine = environment(where) if isinstance(where, Compute) else where
    with new_folder(folder.path, is_shared=True) as path:
        write_text(StudyFolder(path).space_path, space.to_yaml(folder.path))
        write_prepared(prepared, path / "split.json")
        write_inputs(path, folder.path, inputs)
        write_json(path / "environment.json", {**machine})
        create_journal(StudyFolder(path).journal_path, space, folder.path)


def environment(compute: Compute) -> dict[str, Any]:
    """Return the versions and the machine, without secrets."""
    return {
        "identity": uuid.uuid4().hex,
        "compute": asdict(compute),
        "packages": {name: version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def require_free(folder: StudyFolder) -> None:
    """Refuse (StudyError) to create a study in a folder that has files and is not a study."""
    if folder.path.exists() and any(folder.path.iterdir()) and not folder.space_path.exists():
        what = "this folder is not empty, and is not a study (study.yaml is missing)"
        fix = "give the study another name (--set name=...), or move the folder away"
        raise StudyError(what, folder.path, fix)


def with_recorded_images(folder: StudyFolder, space: Space) -> Space:
    """Return a space with the images of its study, if there are none at its own `data.path`.

    Settings that a data file may have given for these images are taken from the study, too, unless
    the space has them.
    """
    settings = space.settings
    recorded = folder.space().settings
    if settings.data.path.exists():
        return space
    changes = {
        "data": _completed(settings.data, recorded.data, DATA_FILE_KEYS),
        "data.path": recorded.data.path,
        "data.split": _completed(settings.data.split, recorded.data.split, ("group_regex", "site")),
        "weights_dir": settings.weights_dir or recorded.weights_dir,
    }
    return replace(space, settings=settings.with_values(changes))


def _completed(given: StrictModel, recorded: StrictModel, keys: Iterable[str]) -> StrictModel:
    """Return the given settings, with recorded values for the `keys` that are not given."""
    missing = {*keys} - given.model_fields_set
    return given.with_values({key: getattr(recorded, key) for key in missing})


def require_same_images(folder: StudyFolder, prepared: SplitData) -> SplitData:
    """Return the study's record of its images; raise StudyError if they or the split changed."""
    recorded = folder.prepared()
    require_same_data(recorded, prepared, folder.path)
    if recorded.fingerprint == prepared.fingerprint:
        return recorded
    known = {image.file for image in all_images(recorded)}
    added = [image.file for image in all_images(prepared) if image.file not in known]
    changes = "the same ones are on other sides of the split"
    if added:
        changes = f"{len(added)} new: {join_names(added)}"
    what = f"the images changed since the study began: {changes}"
    raise StudyError(what, folder.path, RESTORE)


def continue_under_releases(folder: StudyFolder) -> str:
    """Record that other versions train the trials from now on, and return a note; "" if none do.

    Unfinished trials lose their checkpoints, so that none is trained with two versions.
    """
    change = other_releases(folder)
    if not change:
        return ""
    with explain_disk_errors(folder.path):
        for checkpoint in folder.path.glob("trials/*/checkpoint/checkpoint.pt"):
            checkpoint.unlink()
    content = folder.environment()
    now = environment(folder.compute())
    entry = {"packages": now["packages"], "started": now["started"]}
    content["continued"] = [*content.get("continued", ()), entry]
    write_json(folder.path / "environment.json", content)
    return (
        f"the trials of this study were {change}: ended trials keep their values, unfinished ones "
        "start again, and `confirm` trains all replicates with one version"
    )
