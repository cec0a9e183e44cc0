"""Read a space file, with command-line options applied to it, and write experiments.

`load_space` reports all problems of a file together, before anything starts. What it returns can
run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xraytune.base.errors import ConfigError, Problem
from xraytune.base.records import Json
from xraytune.space.document import (
    Node,
    Problems,
    RejectedError,
    parse_yaml,
    read_document,
    write_yaml,
)
from xraytune.space.fields import flat_values, parameter_fields
from xraytune.space.grammar import SPEC_KEYS, path_of, read_initial_points, read_parameters
from xraytune.space.messages import nearest
from xraytune.space.removed import REMOVED, explain_removed
from xraytune.space.rules import check_space, complete_specs
from xraytune.space.settings import BLOCKS, DataSettings, Experiment, Settings, has_effect_in
from xraytune.space.shipped import find_space
from xraytune.space.space import ParameterSpec, Space, settings_content
from xraytune.space.validation import setting_names, validate

_FINDING_KEYS = ("findings", "uncertain", "empty")
DATA_FILE_KEYS = ("path", "classes", "positive", "table", "split", *_FINDING_KEYS)
"""The keys of `data` that a data file may have."""
_NON_SETTING_KEYS = ("parameters", "points_to_evaluate")
STUDY_NAME = "study.yaml"
"""The file of a study's space; it may have settings of earlier versions that changed no trial."""
SEARCH_ONLY = dict.fromkeys(
    (
        *("budget.trials", "budget.hours", "scheduler", "sampler", "confirm"),
        *("resources.concurrent", "resources.retries"),
    ),
    "omit it",
)
"""Settings that only `search` and `confirm` use; for `refuse_unused`."""


def load_space(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    data: Path | None = None,
    weights_dir: Path | None = None,
) -> Space:
    """Read and check a space file.

    Args:
        path: The YAML file, or the name of one that xraytune ships; paths in it are relative to its
            folder.
        overrides: The `key=value` of each `--set`: a parameter or a setting by its dotted name, and
            a value in YAML.
        data: Folder that replaces `data.path`, or YAML file that replaces keys of `data` (see
            `data_settings`); relative to the current folder, like paths in `overrides`.
        weights_dir: Replaces `weights_dir`.

    Raises:
        ConfigError: With all problems, in file order.
    """
    root = read_document(find_space(path))
    for override in overrides:  # the last one for a key wins
        _apply_override(root, override)
    if data is not None and is_data_file(data):
        task = root.get("task")
        has_classes = task is None or task.content == "classification"
        _apply_data_file(root, data, without=_FINDING_KEYS if has_classes else ())
    elif data is not None:
        root.put(("data", "path"), Node(data.absolute(), f"--data {data}"))
    if weights_dir is not None:
        root.put(("weights_dir",), Node(weights_dir.absolute(), f"--weights-dir {weights_dir}"))

    problems = Problems(root)
    if path.name != STUDY_NAME and "exported_from" not in root.mapping:
        for name, removed in REMOVED.items():
            node = root.get(*name.split("."))
            if node and removed.is_limit:
                problems.add(node, f"unknown key '{name}'", explain_removed(name))
    settings: Settings | None = None
    specs: tuple[ParameterSpec, ...] = ()
    with suppress(RejectedError):
        settings = read_settings(problems)
    with suppress(RejectedError):
        specs = complete_specs(read_parameters(problems), problems)
    points_to_evaluate = read_initial_points(problems, specs)
    if specs:
        check_space(specs, settings, problems)
        _refuse_inactive(overrides, specs, problems)
    problems.raise_all()
    assert settings is not None
    return Space(settings=settings, specs=specs, points_to_evaluate=points_to_evaluate)


def read_settings(problems: Problems) -> Settings:
    """Return the settings of a file, with absolute paths; RejectedError if there are problems with them."""
    given = {
        key: node for key, node in problems.root.mapping.items() if key not in _NON_SETTING_KEYS
    }
    names = (*_NON_SETTING_KEYS, *(f"parameters.{name}" for name in (*BLOCKS, *parameter_fields())))
    return validate(problems, Settings, Node(given, problems.root.place), names=names)


def data_settings(source: Path, base: DataSettings) -> DataSettings:
    """Return the settings of a data source: an image folder, or a YAML file with a `data:` block.

    A file may give `path` (default: its own folder), `classes`, `positive`, `table`, `findings`,
    `uncertain`, `empty` and `split`; all else is as in `base`. Raises ConfigError with all problems
    of the file, in file order.
    """
    if not is_data_file(source):
        return base.model_copy(update={"path": source})
    root = parse_yaml(
        write_yaml({"name": "data", "data": base.model_dump(mode="json")}), lambda _: str(source)
    )
    _apply_data_file(root, source)
    problems = Problems(root)
    with suppress(RejectedError):
        return read_settings(problems).data
    problems.raise_all()
    raise AssertionError("a rejected setting has a problem")


def is_data_file(source: Path) -> bool:
    """Return whether a data source is a YAML file, by its suffix."""
    return source.suffix.lower() in {".yaml", ".yml"} and not source.is_dir()


def _apply_data_file(root: Node, file: Path, *, without: Sequence[str] = ()) -> None:
    """Replace keys of `data`; a table and its patients come as a whole. A file may be for several tasks: `without` keys."""
    read = read_document(file, start="data:")
    problems = Problems(read)
    for key in read.mapping.keys() - {"data"}:
        what = f"'{key}' is outside of data:"
        problems.add(
            read.mapping[key], what, "move all keys under data:; a data file has no others"
        )
    data = read.get("data") or Node({}, file)
    if not isinstance(data.content, dict):
        problems.add(data, "data: is not a mapping", "write data: {path: FOLDER}")
    for key in data.mapping.keys() & DataSettings.model_fields.keys() - {*DATA_FILE_KEYS}:
        problems.add(data.mapping[key], f"data.{key} belongs to the space file", "write it there")
    problems.raise_all()

    if data.get("table", "patient"):
        root.put(("data", "split", "group_regex"), Node(None, file))
    root.put(("data", "path"), Node(file.parent.absolute(), file))
    root.put(("data", "table"), Node(None, file))
    for key, node in data.mapping.items():
        if key == "split" and node.mapping:
            for name, inner in node.mapping.items():
                root.put(("data", "split", name), inner)
        elif key not in without:
            root.put(("data", key), node)


def refuse_unused(overrides: Sequence[str], command: str, unused: Mapping[str, str]) -> None:
    """Refuse (ConfigError) overrides that would have no effect on a command.

    `unused` has what to do instead by the name of each setting, block or parameter that the command
    does not use.
    """
    problems = []
    for override in overrides:
        key, _, text = override.partition("=")
        for name in _names_below(key.strip(), parse_yaml(text, lambda _: "--set")):
            fixes = [fix for start, fix in unused.items() if f"{name}.".startswith(f"{start}.")]
            if fixes:
                problems.append(
                    Problem(f"{name}: `{command}` does not use it", f"--set {override}", fixes[0])
                )
    if problems:
        raise ConfigError(*problems)


def _names_below(name: str, node: Node) -> Iterator[str]:
    for key, inside in node.mapping.items():
        yield from _names_below(f"{name}.{key}", inside)
    if not node.mapping:
        yield name


def _refuse_inactive(
    overrides: Sequence[str], specs: Sequence[ParameterSpec], problems: Problems
) -> None:
    active = {spec.name for spec in specs}
    for override in overrides:
        name = override.partition("=")[0].strip()
        if name in parameter_fields() and name not in active:
            block = name.partition(".")[0]
            fix = f"omit it, or add --set source={block}" if block in BLOCKS else "omit it"
            problems.add(
                Node(None, f"--set {override}"), f"{name}: no trial of this space uses it", fix
            )


def _apply_override(root: Node, override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    place = f"--set {override}"
    if not equals:
        raise ConfigError(Problem("not key=value", place, f"write --set {key or 'lr'}=VALUE"))
    value = parse_yaml(text, lambda _: place)
    if key in parameter_fields():
        path = path_of(root, key)
        spec = value if value.mapping.keys() & {*SPEC_KEYS} else Node({"value": value}, place)
        if (when := root.get(*path, "when")) and "when" not in spec.mapping:
            spec.content["when"] = when
        root.put(path, spec)
    elif key.partition(".")[0] in (*Settings.model_fields, "points_to_evaluate"):
        root.put(key.split("."), value)
    else:
        bare = key.replace("parameters.", "").removesuffix(".value")  # as the file nests it
        fix = explain_removed(bare) or nearest(
            bare, [*parameter_fields(), *setting_names(Settings)], "give a parameter or a setting"
        )
        raise ConfigError(Problem(f"unknown key '{key}'", place, fix))


def experiment_to_yaml(experiment: Experiment, relative_to: Path, header: str = "") -> str:
    """Return a space file, in the folder `relative_to`, in which everything is fixed; `header` becomes comment lines."""
    settings = experiment.settings
    values = flat_values(experiment.parameters, relative_to)
    parameters: Json = {
        name: {"value": value}
        for name, value in values.items()
        if has_effect_in(settings.task, name)
    }
    return write_yaml({**settings_content(settings, relative_to), "parameters": parameters}, header)


def experiment_to_json(experiment: Experiment, relative_to: Path) -> dict[str, Json]:
    """Return the content of a trial's `config.json`; paths are relative to the folder of the file."""
    return experiment.model_dump(mode="json", context=relative_to)


def experiment_from_json(content: Any, relative_to: Path) -> Experiment:
    """Return the experiment of `experiment_to_json`; ValueError if the content is damaged."""
    return Experiment.model_validate(content, context=relative_to)
