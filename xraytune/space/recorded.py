"""The extensions of a study or a model: what is recorded of them, and the files of their code.

    extensions/record.json      each `Extension`
    extensions/my_gan/...       the files of its code, which the processes of trials import

With the record, both can be read without the code. Only a command that was given the code, or
found it in an installed package, trains a generator.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from xraytune.base.errors import ArtifactError, StudyError, join_names
from xraytune.base.files import copy_file, read_json, with_checksum, without_checksum, write_json
from xraytune.space.extensions import EXTENSIONS, Extension
from xraytune.space.paths import relative_path
from xraytune.space.program import Program

_FOLDER = "extensions"
_RECORD = "record.json"
_EXTENSIONS = TypeAdapter(list[Extension])


def write_extensions(study: Path, names: Iterable[str], final: Path) -> None:
    """Record extensions in a folder, which becomes `final`.

    Their code is copied; a program stays where it is.
    """
    rows = []
    for name in sorted({*names}):
        extension = EXTENSIONS.declared[name]
        folder = ""
        if isinstance(EXTENSIONS.load(name), Program):
            folder = relative_path(EXTENSIONS.roots[name], final)
        elif not extension.package:
            for file in extension.files:
                copy_file(EXTENSIONS.roots[name] / file, study / _FOLDER / name / file)
        rows.append({**asdict(extension), "folder": folder})
    if rows:
        content = {"version": 1, "extensions": rows}
        write_json(study / _FOLDER / _RECORD, with_checksum(content))


def recorded_extensions(study: Path) -> list[Extension]:
    """Return the extensions that a study recorded; raise ArtifactError if the record is damaged."""
    file = study / _FOLDER / _RECORD
    if not file.exists():
        return []
    try:
        return _EXTENSIONS.validate_python(without_checksum(read_json(file))["extensions"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactError(
            "the record of the extensions is damaged", file, "restore it from a backup"
        ) from error


def declare_recorded(study: Path, *, runs_code: bool = False) -> None:
    """Make the settings of a study's extensions parameters.

    Only the process of a trial `runs_code` of the study's folder, since the command that started it
    was given the same code.
    """
    for extension in recorded_extensions(study):
        root = _root_of(extension, study) if runs_code else None
        EXTENSIONS.declare_recorded(extension, root)


def code_places(study: Path, folder: Path) -> list[str]:
    """Return what `--extension` takes, in a folder, for the recorded code of each extension.

    Extensions of installed packages are left out, since they need not be given.
    """
    return [
        f"{relative_path(_root_of(extension, study), folder)}/{extension.place}"
        for extension in recorded_extensions(study)
        if not extension.package
    ]


def _root_of(extension: Extension, study: Path) -> Path:
    """Return the folder of an extension's files, which a study has or, for a program, knows."""
    return (study / (extension.folder or f"{_FOLDER}/{extension.name}")).resolve()


def require_same_code(study: Path, names: Collection[str] | None = None) -> None:
    """Refuse to train without the code of a study's extensions, or with other code.

    With `names`, only these extensions are checked.

    Raises:
        ConfigError: The code was not given.
        StudyError: The code changed since the study began.
    """
    for recorded in recorded_extensions(study):
        name = recorded.name
        if names is not None and name not in names:
            continue
        EXTENSIONS.load(name)
        if changes := EXTENSIONS.declared[name].changes(recorded):
            raise StudyError(
                f"the code of {name} changed since the study began: {join_names(changes)}",
                study,
                "restore it, or start a study with another name",
            )
