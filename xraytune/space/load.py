"""Read a space file, with command-line options applied to it, and write experiments.

`load_space` reports all problems of a file together, before anything starts. The space that it
returns can run.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from xraytune.base.errors import ConfigError, Problem, join_names
from xraytune.base.files import StrPath, optional_path
from xraytune.space.data_settings import DataSettings
from xraytune.space.document import Block, Document, parse_yaml, read_document, write_yaml
from xraytune.space.domains import ParameterSpec
from xraytune.space.extensions import EXTENSIONS
from xraytune.space.fields import flat_values
from xraytune.space.grammar import lift_blocks, read_points, read_specs
from xraytune.space.parameters import has_effect
from xraytune.space.rules import check_space
from xraytune.space.settings import Experiment, Settings
from xraytune.space.shipped import find_space
from xraytune.space.space import Space
from xraytune.space.strict_model import StrictModel
from xraytune.space.task_settings import CLASS_TASKS, TASK_RULES, TaskName
from xraytune.space.validation import SPACE_KEYS, validate

FINDING_KEYS = ("findings", "uncertain", "empty")
"""The keys of `data` that only `task: findings` uses."""
DATA_FILE_KEYS = ("path", "set", "classes", "positive", "table", "split", *FINDING_KEYS)
"""The keys of `data` that a data file may have."""

STUDY_NAME = "study.yaml"
"""The file of a study's space."""


class _DataFile(StrictModel):
    data: dict[str, Any]


def load_space(
    file: StrPath,
    overrides: Sequence[str] = (),
    *,
    data: StrPath | None = None,
    weights_dir: StrPath | None = None,
    extensions: Sequence[str | type] = (),
) -> Space:
    """Read and check a space file.

    Args:
        file: The YAML file, or the name of one that xraytune ships; paths in it are relative to its
            folder.
        overrides: The `key=value` of each `--set`: a parameter or a setting by its dotted name, and
            a value in YAML.
        data: Folder that replaces `data.path`, or YAML file that replaces keys of `data` (see
            `data_settings`); relative to the current folder, like paths in `overrides`.
        weights_dir: Replaces `weights_dir`.
        extensions: Your own code that the space names: `FILE.py:CLASS`, or the class itself.

    Raises:
        ConfigError: The file is invalid; all its problems are listed, in file order.
        MachineError: An extension imports a package that is not installed.
    """
    file = Path(file)
    data = optional_path(data)
    EXTENSIONS.register(extensions)
    document = read_document(find_space(file))
    if [*document.content] == ["data"]:
        raise ConfigError(
            "this is a data file, not a search space",
            file,
            "give it as --data, and a search space as --space",
        )
    lift_blocks(document)
    for override in overrides:  # the last one for a key wins
        _apply_override(document, override)
    if data is not None and is_data_file(data):
        has_classes = document.get("task") in (None, *CLASS_TASKS)
        _apply_data_file(document, data, without=FINDING_KEYS if has_classes else ())
    elif data is not None:
        document.put(("data", "path"), data.absolute(), f"--data {data}")
    if weights_dir is not None:
        option = f"--weights-dir {weights_dir}"
        document.put(("weights_dir",), Path(weights_dir).absolute(), option)

    task: TaskName = "classification"
    with document.collect():
        settings = _read_settings(document)
        task = settings.task
    with document.collect():
        specs = read_specs(document, task)
        document.raise_problems()
        points = read_points(document, specs)
        space = Space(settings=settings, specs=specs, points_to_evaluate=points)
        space = check_space(space, document)
    document.raise_problems()
    return space


def _read_settings(document: Document) -> Settings:
    """Return the settings of a file, with absolute paths."""
    content = {key: value for key, value in document.content.items() if key not in SPACE_KEYS}
    settings = validate(document, TypeAdapter(Settings), (), content)
    if is_data_file(settings.data.path):
        raise document.error(
            ("data", "path"),
            f"data.path: {settings.data.path} is a data file",
            "give it as --data FILE, or write the keys of its data: block here",
        )
    return settings


SEARCH_ONLY = (
    "budget.trials",
    "budget.hours",
    "scheduler",
    "sampler",
    "confirm",
    "resources.concurrent",
)
"""Settings that only `search` and `confirm` use."""


def refuse_unused(
    overrides: Sequence[str], command: str, unused: Sequence[str], fix: str = "omit it"
) -> None:
    """Refuse (ConfigError) overrides of settings and parameters that a command does not use."""
    problems = []
    for override in overrides:
        name = _name_of(override.partition("=")[0])
        if any(f"{name}.".startswith(f"{start}.") for start in unused):
            what = f"{name}: `{command}` does not use it"
            problems.append(Problem(what, f"--set {override}", fix))
    if problems:
        raise ConfigError(*problems)


def data_settings(
    data_path: Path, base: DataSettings, overrides: Sequence[str] = ()
) -> DataSettings:
    """Return the settings of data: an image folder, or a YAML file with a `data:` block.

    A file may give `path` (default: its own folder), `set`, `classes`, `positive`, `table`,
    `findings`, `uncertain`, `empty` and `split`; everything else is as in `base`, changed by
    `overrides`. Raises ConfigError with all problems of the file, in file order.
    """
    is_file = is_data_file(data_path)
    if not (is_file or overrides):
        return base.model_copy(update={"path": data_path})
    place = str(data_path)
    content = write_yaml({"name": "data", "data": base.model_dump(mode="json")})
    document = Document(parse_yaml(content, place), place)
    for override in overrides:
        _apply_override(document, override)
    if is_file:
        _apply_data_file(document, data_path)
    return _read_settings(document).data


def is_data_file(data_path: Path) -> bool:
    """Return whether data are given by a YAML file, by its suffix."""
    return data_path.suffix.lower() in {".yaml", ".yml"} and not data_path.is_dir()


def _apply_data_file(document: Document, file: Path, *, without: Sequence[str] = ()) -> None:
    """Replace keys of `data` by the keys of a data file.

    The table is always replaced, and a table with a column of patients also replaces
    `data.split.group_regex`. A file may be for several tasks; `without` names the keys of other
    tasks, which are left out.
    """
    data_file = read_document(file)
    of_spaces = {*Settings.model_fields, *SPACE_KEYS} - {"data"}
    space_keys = [repr(key) for key in data_file.content if key in of_spaces]
    if space_keys:
        raise ConfigError(
            Problem(
                f"this is a search space, not a data file: it also has {join_names(space_keys)}",
                file,
                "give the folder of the images, or a file with the data: block alone",
            )
        )
    validate(data_file, TypeAdapter(_DataFile), (), data_file.content)
    data = data_file.get("data")
    for key in data.keys() & DataSettings.model_fields.keys() - {*DATA_FILE_KEYS}:
        raise data_file.error(
            ("data", key), f"data.{key} belongs to the space file", "write it there"
        )

    if data_file.get("data", "table", "patient") is not None:
        document.put(("data", "split", "group_regex"), None, file)
    document.put(("data", "path"), file.parent.absolute(), file)
    document.put(("data", "table"), None, file)
    for key, value in data.items():
        if key == "split" and isinstance(value, Block):
            for name, inner in value.items():
                document.put(("data", "split", name), inner, value.places[name])
        elif key not in without:
            document.put(("data", key), value, data.places[key])


def _apply_override(document: Document, override: str) -> None:
    """Set a setting, or else a parameter, which keeps its condition.

    Unknown names are refused later.
    """
    key, equals, text = override.partition("=")
    key = _name_of(key)
    place = f"--set {override}"
    if not equals:
        raise ConfigError("not key=value", place, f"write --set {key or 'lr'}=VALUE")
    value = parse_yaml(text, place)
    EXTENSIONS.declare_installed([key.partition(".")[0]])
    if key.partition(".")[0] in (*Settings.model_fields, "points_to_evaluate"):
        document.put(tuple(key.split(".")), value, place)
        return
    if not isinstance(value, Block):
        block = Block()
        block.put("value", value, place)
        value = block
    when = document.get("parameters", key, "when")
    if when is not None and "when" not in value:
        value.put("when", when, document.locate(("parameters", key, "when")))
    document.put(("parameters", key), value, place)


def _name_of(key: str) -> str:
    """Return the dotted name of a setting or parameter whose key is written as a file nests it."""
    return key.strip().replace("parameters.", "").removesuffix(".value")


def with_data_options(
    overrides: Sequence[str], classes: str | None, group_regex: str | None
) -> list[str]:
    """Return overrides that begin with those of `--classes` and `--group-regex`, if given."""
    given = {"data.classes": classes, "data.split.group_regex": group_regex}
    options = [override_of(name, value) for name, value in given.items() if value is not None]
    return [*options, *overrides]


def override_of(name: str, value: object) -> str:
    """Return an override that gives a setting this value, quoted if YAML would read another one.

    >>> override_of("folder.path", "gan #2")
    'folder.path="gan #2"'
    """
    text = str(value)
    with suppress(ConfigError):
        if parse_yaml(text, name) == text:
            return f"{name}={text}"
    return f"{name}={json.dumps(text)}"


def experiment_to_yaml(experiment: Experiment, folder: Path, header: str = "") -> str:
    """Return a space file, in a folder, in which everything is fixed; see `Space.to_yaml`."""
    settings = experiment.settings
    values = flat_values(experiment.parameters)
    specs = tuple(
        ParameterSpec(name=name, values=(value,))
        for name, value in values.items()
        if has_effect(name, values) and name not in TASK_RULES[settings.task].unused
    )
    return Space(settings=settings, specs=specs).to_yaml(folder, header)
